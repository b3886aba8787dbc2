"""Know which records of a file a run has loaded, so that a feed's mirrors can be rebuilt from its files."""

from warehouse.migrations.sql import execute

revision = "0065"
down_revision = "0064"
branch_labels = None
depends_on = None

# Of what earlier runs have loaded, those records are known that are in the mirrors: their rows name run, file and line.
LOADED = """
    do $do$
    declare
        mirror record;
    begin
        for mirror in
            select feed.source, feed.mirror, columns.of_tables
            from audit.watermark as feed
            inner join pg_attribute as stamp
                on stamp.attrelid = to_regclass(format('raw.%I', feed.mirror)) and stamp.attname = 'record_timestamp'
            cross join lateral (
                select json_object_agg(one.table_name, one.types) as of_tables
                from (
                    select loaded.table_name, json_object_agg(
                        attname,
                        replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz')
                        order by attnum
                    ) as types
                    from audit.watermark as loaded
                    inner join pg_attribute on attrelid = to_regclass(format('raw.%I', loaded.mirror))
                    inner join pg_index on indrelid = attrelid and indisprimary
                    where loaded.source = feed.source and attnum > 0 and not attisdropped
                        and attname <> all(array[
                            '_rescued_data', '_file_id', '_file', '_line', 'record_timestamp', '_run_id', '_is_deleted'
                        ])
                        -- The key of a list's rows is not in the list itself.
                        and (loaded.mirror = feed.mirror or attnum <> all(indkey))
                    group by loaded.table_name
                ) as one
            ) as columns
        loop
            execute format(
                $statement$
                insert into audit.file_read
                    (run_id, file_id, path, written_at, is_replay, record_lines, columns, read_at)
                select
                    written._run_id, written._file_id, min(written._file), min(written.record_timestamp),
                    exists (
                        select from audit.quarantine as entry
                        where entry.resolved_run_id = written._run_id and entry.file_id = written._file_id
                            and entry.resolution = 'replayed'
                    ),
                    range_agg(int8range(written._line, written._line, '[]')), $1, min(run.started_at)
                from raw.%I as written inner join audit.run as run on run.run_id = written._run_id
                where not written._is_deleted group by written._run_id, written._file_id
                $statement$,
                mirror.mirror
            ) using mirror.of_tables;
        end loop;
    end
    $do$
    """


def upgrade() -> None:
    execute(
        """
        create table audit.file_read (
            run_id bigint not null,
            file_id integer not null,
            path text not null,
            written_at timestamptz not null,
            is_replay boolean not null,
            record_lines int8multirange not null,
            columns json not null,
            evolved_columns json,
            read_at timestamptz not null default clock_timestamp(),
            constraint pk_file_read primary key (run_id, file_id),
            constraint fk_file_read_run_id foreign key (run_id) references audit.run (run_id)
        )
        """
    )
    execute(LOADED)


def downgrade() -> None:
    execute("drop table audit.file_read")
