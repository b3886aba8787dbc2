-- mart.unread_file: files in the landing folder of a feed that are not read, or not to their end, and what to do.
-- inputs: audit.file
select
    file.feed,
    file.path,
    -- A loaded file that cannot be read any more is shown as unread; audit.file keeps its status and counts.
    case
        when file.status in ('unrecognized', 'ignored', 'truncated') then file.status
        else 'unread'
    end as status,
    file.message as reason,
    file.hint,
    file.first_seen_at,
    file.loaded_at as looked_at,
    file.run_id
from audit.file as file
where
    file.status in ('unrecognized', 'unread', 'ignored', 'truncated')
    or (file.hint is not null and file.status <> 'replaced')
