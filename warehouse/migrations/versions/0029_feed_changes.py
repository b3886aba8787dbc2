"""What rows of the star were before they changed, told to people; and what everything else was, kept for undo."""

from pathlib import Path

from warehouse.migrations.ddl import create_table, create_view, quoted, run
from warehouse.migrations.feed import withdraw

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"
STATUSES = ("running", "succeeded", "failed", "stopped", "crashed", "skipped")
MORE_STATUSES = ("undone", "dry run")
OPERATIONS = "'insert', 'update', 'delete', 'truncate'"
RUN_COLUMNS = {
    "undone_at": ("timestamptz", "When what it published was taken back (UTC)"),
    "undone_by_run_id": ("bigint", "Run that took back what it published"),
    "pruned_at": (
        "timestamptz",
        "When its before-images were given up (UTC): it can no longer be undone, nor the star be read as it left it",
    ),
}
WHO = {
    "run_id": ("bigint", "Run that changed it; empty: somebody did by hand"),
    "database_user": ("text not null", "Login that changed it"),
}
ROW_KEY = (
    "text[]",
    "Primary key of the row, as text, in the key's order; empty where the table has none",
)
BEFORE = "The row before the change, every value as its text (personal data)"
AFTER = "The row after the change, every value as its text (personal data)"
LAYOUT_ID = ("integer not null", "Names of the row's columns: audit.layout")

# Casts to text must not depend on the session of whoever changes a row.
SESSION = """
    set search_path = pg_catalog, pg_temp
    set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set lc_monetary = 'C'
    set extra_float_digits = 1 set bytea_output = 'hex' set jit = off
"""

CURRENT_RUN_ID = """
    create function audit.current_run_id() returns bigint language sql stable
    as $$ select substring(current_setting('dwh.run_id', true) from '^[0-9]{1,18}$')::bigint $$
"""

# Rows are kept as arrays of texts, a fifth of the time that jsonb takes and half of the room; names are in the layout.
ROW_LAYOUT = """
    create function audit.row_layout(relation oid) returns integer language plpgsql
    as $body$
    declare
        wanted constant text[] := array(
            select attname::text from pg_catalog.pg_attribute
            where attrelid = relation and attnum > 0 and not attisdropped order by attnum
        );
        found integer;
    begin
        select layout_id into found from audit.layout where columns = wanted;
        if found is null then
            insert into audit.layout (columns) values (wanted) on conflict do nothing;
            select layout_id into found from audit.layout where columns = wanted;
        end if;
        return found;
    end
    $body$
"""

# Statements are made of the columns that a table has when it fires: one that is added later is in the next image.
ROW_IMAGE = """
    create function audit.row_image(relation oid, prefix text) returns text language sql stable
    as $$
        select format('array[%s]', string_agg(format('%s.%I::text', prefix, attname), ', ' order by attnum))
        from pg_catalog.pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
    $$
"""

# What `pattern` makes of each column of the primary key.
EACH_KEY = """
    create function audit.each_key(relation oid, pattern text, separator text) returns text language sql stable
    as $$
        select string_agg(format(pattern, attname), separator order by part.position)
        from pg_catalog.pg_index
        cross join unnest(indkey) with ordinality as part (attnum, position)
        inner join pg_catalog.pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
        where indrelid = relation and indisprimary
    $$
"""

KEEP_CHANGE = f"""
    create function audit.keep_change() returns trigger language plpgsql security definer {SESSION}
    as $body$
    declare
        named constant text := tg_table_schema || '.' || tg_table_name;
        said text;
    begin
        if tg_op <> 'TRUNCATE' then
            if not exists (select from old_rows) then
                return null;
            end if;
        end if;
        if tg_op = 'UPDATE' then
            -- A row whose key was changed has become another row.
            said := format(
                $$
                insert into audit.change
                    (table_name, operation, row_key, run_id, database_user, changed_at, layout_id, before, after)
                select
                    $1, case when after is null then 'delete' when before is null then 'insert' else 'update' end,
                    row_key, $3, session_user, $4, $5, before, after
                from (
                    select
                        case when old_row.is_there then array[%s] else array[%s] end as row_key,
                        case when old_row.is_there then %s end as before,
                        case when new_row.is_there then %s end as after
                    from (select *, true as is_there from old_rows) as old_row
                    full join (select *, true as is_there from new_rows) as new_row on %s
                ) as image
                where before is distinct from after
                $$,
                audit.each_key(tg_relid, 'old_row.%I::text', ', '), audit.each_key(tg_relid, 'new_row.%I::text', ', '),
                audit.row_image(tg_relid, 'old_row'), audit.row_image(tg_relid, 'new_row'),
                audit.each_key(tg_relid, 'old_row.%1$I = new_row.%1$I', ' and ')
            );
        else
            said := format(
                $$
                insert into audit.change
                    (table_name, operation, row_key, run_id, database_user, changed_at, layout_id, before)
                select $1, $2, array[%s], $3, session_user, $4, $5, %s from %s as old_row
                $$,
                audit.each_key(tg_relid, 'old_row.%I::text', ', '), audit.row_image(tg_relid, 'old_row'),
                case when tg_op = 'DELETE' then 'old_rows' else format('%I.%I', tg_table_schema, tg_table_name) end
            );
        end if;
        execute said using
            named, lower(tg_op), audit.current_run_id(), clock_timestamp(), audit.row_layout(tg_relid);
        return null;
    end
    $body$
"""

KEEP_BEFORE_IMAGE = f"""
    create function audit.keep_before_image() returns trigger language plpgsql security definer {SESSION}
    as $body$
    declare
        named constant text := tg_table_schema || '.' || tg_table_name;
    begin
        if tg_op <> 'TRUNCATE' then
            if not exists (select from old_rows) then
                return null;
            end if;
        end if;
        -- What an undo takes back is taken back for good.
        if current_setting('dwh.is_undo', true) = 'on' then
            return null;
        end if;
        execute format(
            $$
            insert into audit.before_image
                (table_name, operation, row_key, run_id, database_user, kept_at, layout_id, before)
            select $1, $2, array[%s]::text[], $3, session_user, $4, $5, %s from %s as old_row
            $$,
            audit.each_key(tg_relid, 'old_row.%I::text', ', '), audit.row_image(tg_relid, 'old_row'),
            case when tg_op = 'TRUNCATE' then format('%I.%I', tg_table_schema, tg_table_name) else 'old_rows' end
        ) using named, lower(tg_op), audit.current_run_id(), clock_timestamp(), audit.row_layout(tg_relid);
        return null;
    end
    $body$
"""

PUBLISHED_AFTER = """
    create function audit.published_after(as_of_run_id bigint)
    returns table (run_id bigint) language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    as $body$
    declare
        as_of audit.run;
        last_load_id bigint;
    begin
        select * into as_of from audit.run where audit.run.run_id = as_of_run_id;
        select max(load_id) into last_load_id from audit.load where load.run_id = as_of_run_id;
        if as_of.run_id is null then
            raise exception 'There is no run %.', as_of_run_id using hint = 'mart.job_run lists them.';
        elsif last_load_id is null then
            raise exception 'Run % (%) published nothing: it is %.', as_of_run_id, as_of.flow, as_of.status
                using hint = 'Name the last run before it that succeeded; mart.job_run lists them.';
        elsif as_of.pruned_at is not null then
            raise exception 'What run % left is no longer kept: before-images that old were given up at % UTC.',
                as_of_run_id, to_char(as_of.pruned_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
                using hint = 'DWH_CHANGE_FEED_DAYS says how long they are kept.';
        end if;
        -- Loads are numbered under the lock that lets one run publish at a time: their order is that of the commits.
        return query
            select distinct load.run_id from audit.load where load_id > last_load_id and load.run_id <> as_of_run_id;
    end
    $body$
"""

PUBLISHED_AT = """
    create function audit.published_at(as_of_run_id bigint) returns timestamptz
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$ select max(loaded_at) from audit.load where run_id = as_of_run_id $$
"""

COMMENTS = {
    "row_layout(oid)": "Layout of a table's rows as they are now; made where it is new.",
    "row_image(oid, text)": "Expression that makes a row of the table an array of texts.",
    "each_key(oid, text, text)": "What the pattern makes of each column of a table's primary key.",
    "current_run_id()": "The run whose transaction this is; null: none, somebody works by hand.",
    "keep_change()": "Trigger: tells audit.change what rows were and became, by whichever statement changed them.",
    "keep_before_image()": "Trigger: keeps what rows were in audit.before_image, for undo.",
    "published_after(bigint)": "Runs that published after the given one; an error where that can no longer be told.",
    "published_at(bigint)": "When the run published.",
}

CHANGE_FEED = """
    select
        change.change_id,
        change.changed_at,
        change.table_name,
        change.operation,
        change.row_key,
        change.run_id,
        run.flow,
        change.database_user,
        case
            when change.operation = 'update' then array(
                select cell.name from unnest(layout.columns, change.before, change.after) as cell (name, old, new)
                where cell.old is distinct from cell.new
            )
        end as changed_columns,
        jsonb_object(layout.columns, change.before) as before,
        jsonb_object(layout.columns, change.after) as after
    from audit.change
    inner join audit.layout on change.layout_id = layout.layout_id
    left join audit.run on change.run_id = run.run_id
"""


def upgrade() -> None:
    for column, (kind, comment) in RUN_COLUMNS.items():
        run(f"alter table audit.run add column {column} {kind}")
        run(f"comment on column audit.run.{column} is {quoted(comment)}")
    # Nothing is known of what earlier runs changed.
    run("update audit.run set pruned_at = clock_timestamp()")
    run("create index ix_run_unpruned on audit.run (started_at) where pruned_at is null")
    _statuses((*STATUSES, *MORE_STATUSES))
    create_table(
        "audit.layout",
        "One row per shape that tables have had: what the values of their kept rows are called.",
        {
            "layout_id": ("integer generated always as identity", "Id of the layout"),
            "columns": ("text[] not null", "Columns, in the order of the values"),
        },
        [
            "constraint pk_layout primary key (layout_id)",
            # By hash: the names of a wide table are more than a b-tree takes.
            "constraint ex_layout_columns exclude using hash (columns with =)",
        ],
    )
    create_table(
        "audit.change",
        "One row per row of the star that was updated or deleted, by a run or by hand; inserts cost nothing here. "
        "Read it as audit.change_feed, or per table as audit.<table>_change.",
        {
            "change_id": ("bigint generated always as identity", "Id of the change, in order"),
            "table_name": ("text not null", "Table, with its schema"),
            "operation": (
                "text not null",
                "update, delete or truncate; insert only where an undo or a changed key brought a row",
            ),
            "row_key": (ROW_KEY[0] + " not null", ROW_KEY[1]),
            **WHO,
            "changed_at": ("timestamptz not null", "When (UTC)"),
            "layout_id": LAYOUT_ID,
            "before": ("text[]", BEFORE),
            "after": ("text[]", AFTER),
        },
        [
            "constraint pk_change primary key (change_id)",
            f"constraint ck_change_operation check (operation in ({OPERATIONS}))",
        ],
    )
    # By value: an index in their order would cost more than the rows.
    run("create index ix_change_row_key on audit.change using hash (row_key)")
    # Rows come in the order of time, and nearly of runs: a few bytes per hundred pages find them again.
    run(
        "create index ix_change_run_id on audit.change using brin (run_id, changed_at) with (pages_per_range = 32)"
    )
    create_table(
        "audit.before_image",
        "One row per row of mirrors, watermarks, quarantine, files and counts that was updated or deleted: what it was "
        "before, for `dwh undo`.",
        {
            "image_id": ("bigint generated always as identity", "Id of the image, in order"),
            "table_name": ("text not null", "Table, with its schema"),
            "operation": (
                "text not null",
                "update, delete or truncate; alter: a column was added, which before names",
            ),
            "row_key": ROW_KEY,
            **WHO,
            "kept_at": ("timestamptz not null", "When (UTC)"),
            "layout_id": LAYOUT_ID,
            "before": ("text[] not null", BEFORE),
        },
        [
            "constraint pk_before_image primary key (image_id)",
            "constraint ck_before_image_operation check (operation in ('update', 'delete', 'truncate', 'alter'))",
        ],
    )
    run(
        "create index ix_before_image_run_id on audit.before_image using brin (run_id, kept_at) "
        "with (pages_per_range = 32)"
    )
    for function in (
        CURRENT_RUN_ID,
        ROW_LAYOUT,
        ROW_IMAGE,
        EACH_KEY,
        KEEP_CHANGE,
        KEEP_BEFORE_IMAGE,
        PUBLISHED_AFTER,
        PUBLISHED_AT,
    ):
        run(function)
    for name, comment in COMMENTS.items():
        run(f"comment on function audit.{name} is {quoted(comment)}")
    create_view(
        "audit.change_feed",
        "Every row of the star that was updated or deleted: what it was, what it became, when, and by whom.",
        CHANGE_FEED,
        {
            "change_id": "Id of the change, in order",
            "changed_at": "When (UTC)",
            "table_name": "Table, with its schema",
            "operation": "update, delete, truncate or insert",
            "row_key": ROW_KEY[1],
            "run_id": WHO["run_id"][1],
            "flow": "Flow of that run",
            "database_user": WHO["database_user"][1],
            "changed_columns": "Columns that an update changed",
            "before": BEFORE,
            "after": AFTER,
        },
    )
    # An undone run no longer says that its tables are complete.
    run(f"create or replace view mart.table_freshness as {(SQL / 'table_freshness.sql').read_text()}")
    for table, column in (("change", "before"), ("change", "after"), ("before_image", "before")):
        run(
            "insert into audit.personal_data (schema_name, table_name, column_name, kind) "
            f"values ('audit', '{table}', '{column}', 'rows of any kind')"
        )


def downgrade() -> None:
    withdraw()
    run(
        "delete from audit.personal_data where schema_name = 'audit' and table_name in ('change', 'before_image')"
    )
    run("drop view audit.change_feed")
    for name in COMMENTS:
        run(f"drop function audit.{name}")
    run("drop table audit.before_image")
    run("drop table audit.change")
    run("drop table audit.layout")
    run("update audit.run set status = 'succeeded' where status in ('undone', 'dry run')")
    _statuses(STATUSES)
    for column in reversed(RUN_COLUMNS):
        run(f"alter table audit.run drop column {column}")


def _statuses(statuses: tuple[str, ...]) -> None:
    listed = ", ".join(map(repr, statuses))
    said = "running, succeeded, failed, stopped (by a gate or brake), crashed"
    said += (
        ", skipped (another run held the lock), undone or dry run"
        if statuses != STATUSES
        else " or skipped (another run held the lock)"
    )
    for table in ("audit.run", "mart.job_run"):
        run(f"comment on column {table}.status is {quoted(said)}")
    run("alter table audit.run drop constraint ck_run_status")
    run(f"alter table audit.run add constraint ck_run_status check (status in ({listed}))")
