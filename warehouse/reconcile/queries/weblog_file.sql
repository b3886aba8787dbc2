-- weblog_file: one row per file, and whether each of its lines is exactly once in the fact or in quarantine (is_whole).
-- inputs: audit.file, dwh.fact_weblog, audit.quarantine
-- Header lines, which say how other lines are read, are in neither.
-- Line numbers 1 to n have the sum n(n+1)/2 and the sum of squares n(n+1)(2n+1)/6: a missing line and a duplicated one
-- would have to agree in both.
with line as (
    select
        weblog.file_id,
        count(*) as rows_loaded,
        0 as rows_quarantined,
        sum(weblog.line_number::numeric) as line_sum,
        sum(weblog.line_number::numeric ^ 2) as square_sum
    from dwh.fact_weblog as weblog
    group by weblog.file_id
    union all
    select
        waiting.file_id,
        0 as rows_loaded,
        count(*) as rows_quarantined,
        sum(waiting.line_number::numeric) as line_sum,
        sum(waiting.line_number::numeric ^ 2) as square_sum
    from audit.quarantine as waiting
    where waiting.source = 'weblogs' and waiting.file_id is not null and waiting.resolved_at is null
    group by waiting.file_id
    union all
    select
        discarded.file_id,
        0 as rows_loaded,
        0 as rows_quarantined,
        sum(discarded.line_number::numeric) as line_sum,
        sum(discarded.line_number::numeric ^ 2) as square_sum
    from audit.quarantine as discarded
    where discarded.source = 'weblogs' and discarded.resolution = 'discarded'
    group by discarded.file_id
),

found as (
    select
        line.file_id,
        sum(line.rows_loaded)::bigint as rows_loaded,
        sum(line.rows_quarantined)::bigint as rows_quarantined,
        sum(line.line_sum) as line_sum,
        sum(line.square_sum) as square_sum
    from line
    group by line.file_id
),

recorded as (
    select
        file.file_id,
        file.path,
        file.lines_duplicated,
        file.line_count,
        file.rows_loaded - file.rows_removed as rows_loaded,
        file.rows_quarantined,
        file.rows_removed > 0 as is_cut,
        file.line_count::numeric * (file.line_count + 1) / 2
        - file.lines_duplicated::numeric * (file.lines_duplicated + 1) / 2
        - header.line_sum as line_sum,
        file.line_count::numeric * (file.line_count + 1) * (2 * file.line_count + 1) / 6
        - file.lines_duplicated::numeric * (file.lines_duplicated + 1) * (2 * file.lines_duplicated + 1) / 6
        - header.square_sum as square_sum
    from audit.file as file
    cross join
        lateral (
            select
                coalesce(sum(number::numeric), 0) as line_sum,
                coalesce(sum(number::numeric ^ 2), 0) as square_sum
            from unnest(file.header_lines) as header_line (number)
        ) as header
    where file.feed = 'weblogs'
)

select
    coalesce(recorded.file_id, found.file_id) as file_id,
    recorded.path,
    coalesce(recorded.lines_duplicated, 0) as lines_duplicated,
    coalesce(recorded.line_count, 0) as line_count,
    coalesce(recorded.rows_loaded, 0) as rows_loaded,
    coalesce(recorded.rows_quarantined, 0) as rows_quarantined,
    coalesce(found.rows_loaded, 0) as rows_loaded_found,
    coalesce(found.rows_quarantined, 0) as rows_quarantined_found,
    coalesce(recorded.rows_loaded, 0) = coalesce(found.rows_loaded, 0)
    and coalesce(recorded.rows_quarantined, 0) = coalesce(found.rows_quarantined, 0)
    and (
        -- Line numbers that retention has removed are not known.
        coalesce(recorded.is_cut, false)
        or coalesce(recorded.line_sum, 0) = coalesce(found.line_sum, 0)
        and coalesce(recorded.square_sum, 0) = coalesce(found.square_sum, 0)
    ) as is_whole
from recorded
full outer join found on recorded.file_id = found.file_id
order by file_id
