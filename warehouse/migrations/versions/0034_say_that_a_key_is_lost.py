"""A table of the star that has lost its primary key says so to whoever changes its rows."""

from warehouse.migrations.ddl import run

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

EACH_KEY = """
        select string_agg(format(pattern, attname), separator order by part.position)
        from pg_catalog.pg_index
        cross join unnest(indkey) with ordinality as part (attnum, position)
        inner join pg_catalog.pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
        where indrelid = relation and indisprimary
    """
SIGNATURE = "audit.each_key(relation oid, pattern text, separator text) returns text"


def upgrade() -> None:
    run(
        f"""
        create or replace function {SIGNATURE} language plpgsql stable
        as $body$
        declare
            keys constant text := ({EACH_KEY});
        begin
            if keys is null then
                raise exception '% has no primary key: what its rows are cannot be kept, nor undone.',
                    relation::regclass
                    using hint = 'docs/model.md tells the key: alter table … add primary key (…).';
            end if;
            return keys;
        end
        $body$
        """
    )


def downgrade() -> None:
    run(f"create or replace function {SIGNATURE} language sql stable as $${EACH_KEY}$$")
