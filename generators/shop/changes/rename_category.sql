-- One row: the category gets a word behind its name, or the other word where it has that one already.
update public.category
set
    name = split_part(name, ' & ', 1) || ' & '
    || case when split_part(name, ' & ', 2) = %(word)s then %(other_word)s else %(word)s end
where id = %(id)s
