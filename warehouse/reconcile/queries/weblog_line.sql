-- weblog_line: one row per line of a file that is missing or duplicated.
-- inputs: audit.file, dwh.fact_weblog, audit.quarantine; setting dwh.file_id
with loaded as (
    select weblog.line_number::bigint as line_number
    from dwh.fact_weblog as weblog
    where weblog.file_id = nullif(current_setting('dwh.file_id', true), '')::integer
    union all
    select waiting.line_number
    from audit.quarantine as waiting
    where
        waiting.file_id = nullif(current_setting('dwh.file_id', true), '')::integer
        and waiting.source = 'weblogs'
        and waiting.resolved_at is null
),

counted as (
    select
        loaded.line_number,
        count(*) as copies
    from loaded
    group by loaded.line_number
),

wanted as (
    select line.number as line_number
    from audit.file as file
    cross join lateral generate_series(file.lines_duplicated + 1, file.line_count) as line (number)
    where
        file.file_id = nullif(current_setting('dwh.file_id', true), '')::integer
        and line.number <> all(file.header_lines)
)

select
    coalesce(wanted.line_number, counted.line_number) as line_number,
    coalesce(counted.copies, 0) as copies,
    wanted.line_number is not null as is_wanted
from wanted
full outer join counted on wanted.line_number = counted.line_number
where wanted.line_number is null or counted.copies is distinct from 1
order by line_number
