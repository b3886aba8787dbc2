-- One row: put a word behind the name of the category, or the other word if it already has that one.
update public.category
set
    name = split_part(name, ' & ', 1) || ' & '
    || case when split_part(name, ' & ', 2) = %(word)s then %(other_word)s else %(word)s end
where id = %(id)s
