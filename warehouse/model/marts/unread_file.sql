-- mart.unread_file: files in the landing folder of a feed that are not read, or not to their end, and what to do.
-- inputs: audit.file
select
    file.feed,
    file.path,
    file.status,
    file.message as reason,
    file.hint,
    file.first_seen_at,
    file.loaded_at as looked_at,
    file.run_id
from audit.file as file
where file.status in ('unrecognized', 'unread', 'ignored', 'truncated')
