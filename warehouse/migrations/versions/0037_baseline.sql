-- The schema of revision 0037, dumped by pg_dump 16 (--schema-only --no-owner --no-privileges), and the rows that
-- every warehouse begins with. Frozen: later changes are migrations of their own.

CREATE SCHEMA audit;

COMMENT ON SCHEMA audit IS 'What every run did: loads, watermarks, files, quarantine, checks and proofs.';

CREATE SCHEMA dwh;

COMMENT ON SCHEMA dwh IS 'The star schema: dimensions with history, and facts.';

CREATE SCHEMA mart;

COMMENT ON SCHEMA mart IS 'What BI tools and people read.';

CREATE SCHEMA raw;

COMMENT ON SCHEMA raw IS 'Mirrors: the current state of each source table, one to one.';

CREATE SCHEMA staging;

COMMENT ON SCHEMA staging IS 'Batches on their way in: unlogged, rewritten by every run, never read by people.';

CREATE FUNCTION audit.current_run_id() RETURNS bigint
    LANGUAGE sql STABLE
    AS $_$ select substring(current_setting('dwh.run_id', true) from '^[0-9]{1,18}$')::bigint $_$;

COMMENT ON FUNCTION audit.current_run_id() IS 'The run whose transaction this is; null: none, somebody works by hand.';

CREATE FUNCTION audit.dim_company_at(as_of_run_id bigint) RETURNS TABLE(company_key bigint, source_system text, company_id text, cuit text, name text, country text, valid_from timestamp with time zone, valid_to timestamp with time zone, is_current boolean, is_inferred boolean, row_hash bigint, run_id bigint, closed_by_run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_company'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."company_key", "now"."source_system", "now"."company_id", "now"."cuit", "now"."name", "now"."country", "now"."valid_from", "now"."valid_to", "now"."is_current", "now"."is_inferred", "now"."row_hash", "now"."run_id", "now"."closed_by_run_id" from "dwh"."dim_company" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."company_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'company_key')::bigint, (changed.before ->> 'source_system')::text, (changed.before ->> 'company_id')::text, (changed.before ->> 'cuit')::text, (changed.before ->> 'name')::text, (changed.before ->> 'country')::text, (changed.before ->> 'valid_from')::timestamp with time zone, (changed.before ->> 'valid_to')::timestamp with time zone, (changed.before ->> 'is_current')::boolean, (changed.before ->> 'is_inferred')::boolean, (changed.before ->> 'row_hash')::bigint, (changed.before ->> 'run_id')::bigint, (changed.before ->> 'closed_by_run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_company_at(as_of_run_id bigint) IS 'What dwh.dim_company said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_country_at(as_of_run_id bigint) RETURNS TABLE(country text, name text, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_country'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."country", "now"."name", "now"."run_id" from "dwh"."dim_country" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."country"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'country')::text, (changed.before ->> 'name')::text, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_country_at(as_of_run_id bigint) IS 'What dwh.dim_country said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_customer_at(as_of_run_id bigint) RETURNS TABLE(customer_key bigint, source_system text, customer_id text, document_number text, name text, username text, email text, birth_date date, country text, state text, latitude numeric, longitude numeric, loyalty_tier text, acquisition_source text, valid_from timestamp with time zone, valid_to timestamp with time zone, is_current boolean, is_inferred boolean, row_hash bigint, run_id bigint, closed_by_run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_customer'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."customer_key", "now"."source_system", "now"."customer_id", "now"."document_number", "now"."name", "now"."username", "now"."email", "now"."birth_date", "now"."country", "now"."state", "now"."latitude", "now"."longitude", "now"."loyalty_tier", "now"."acquisition_source", "now"."valid_from", "now"."valid_to", "now"."is_current", "now"."is_inferred", "now"."row_hash", "now"."run_id", "now"."closed_by_run_id" from "dwh"."dim_customer" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."customer_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'customer_key')::bigint, (changed.before ->> 'source_system')::text, (changed.before ->> 'customer_id')::text, (changed.before ->> 'document_number')::text, (changed.before ->> 'name')::text, (changed.before ->> 'username')::text, (changed.before ->> 'email')::text, (changed.before ->> 'birth_date')::date, (changed.before ->> 'country')::text, (changed.before ->> 'state')::text, (changed.before ->> 'latitude')::numeric(9,6), (changed.before ->> 'longitude')::numeric(9,6), (changed.before ->> 'loyalty_tier')::text, (changed.before ->> 'acquisition_source')::text, (changed.before ->> 'valid_from')::timestamp with time zone, (changed.before ->> 'valid_to')::timestamp with time zone, (changed.before ->> 'is_current')::boolean, (changed.before ->> 'is_inferred')::boolean, (changed.before ->> 'row_hash')::bigint, (changed.before ->> 'run_id')::bigint, (changed.before ->> 'closed_by_run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_customer_at(as_of_run_id bigint) IS 'What dwh.dim_customer said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_date_at(as_of_run_id bigint) RETURNS TABLE(date_key integer, date date, year smallint, quarter smallint, month smallint, month_name text, month_start_date date, week_year smallint, week smallint, day_of_month smallint, day_of_year smallint, day_of_week smallint, day_name text, is_weekend boolean, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_date'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."date_key", "now"."date", "now"."year", "now"."quarter", "now"."month", "now"."month_name", "now"."month_start_date", "now"."week_year", "now"."week", "now"."day_of_month", "now"."day_of_year", "now"."day_of_week", "now"."day_name", "now"."is_weekend", "now"."run_id" from "dwh"."dim_date" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."date_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'date_key')::integer, (changed.before ->> 'date')::date, (changed.before ->> 'year')::smallint, (changed.before ->> 'quarter')::smallint, (changed.before ->> 'month')::smallint, (changed.before ->> 'month_name')::text, (changed.before ->> 'month_start_date')::date, (changed.before ->> 'week_year')::smallint, (changed.before ->> 'week')::smallint, (changed.before ->> 'day_of_month')::smallint, (changed.before ->> 'day_of_year')::smallint, (changed.before ->> 'day_of_week')::smallint, (changed.before ->> 'day_name')::text, (changed.before ->> 'is_weekend')::boolean, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_date_at(as_of_run_id bigint) IS 'What dwh.dim_date said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_device_at(as_of_run_id bigint) RETURNS TABLE(device_key smallint, family text, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_device'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."device_key", "now"."family", "now"."run_id" from "dwh"."dim_device" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."device_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'device_key')::smallint, (changed.before ->> 'family')::text, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_device_at(as_of_run_id bigint) IS 'What dwh.dim_device said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_distribution_center_at(as_of_run_id bigint) RETURNS TABLE(distribution_center_key bigint, source_system text, distribution_center_id text, name text, latitude numeric, longitude numeric, is_inferred boolean, is_deleted boolean, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_distribution_center'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."distribution_center_key", "now"."source_system", "now"."distribution_center_id", "now"."name", "now"."latitude", "now"."longitude", "now"."is_inferred", "now"."is_deleted", "now"."run_id" from "dwh"."dim_distribution_center" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."distribution_center_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'distribution_center_key')::bigint, (changed.before ->> 'source_system')::text, (changed.before ->> 'distribution_center_id')::text, (changed.before ->> 'name')::text, (changed.before ->> 'latitude')::numeric(9,6), (changed.before ->> 'longitude')::numeric(9,6), (changed.before ->> 'is_inferred')::boolean, (changed.before ->> 'is_deleted')::boolean, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_distribution_center_at(as_of_run_id bigint) IS 'What dwh.dim_distribution_center said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_payment_method_at(as_of_run_id bigint) RETURNS TABLE(payment_method_key bigint, source_system text, payment_method_id text, name text, kind text, is_inferred boolean, is_deleted boolean, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_payment_method'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."payment_method_key", "now"."source_system", "now"."payment_method_id", "now"."name", "now"."kind", "now"."is_inferred", "now"."is_deleted", "now"."run_id" from "dwh"."dim_payment_method" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."payment_method_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'payment_method_key')::bigint, (changed.before ->> 'source_system')::text, (changed.before ->> 'payment_method_id')::text, (changed.before ->> 'name')::text, (changed.before ->> 'kind')::text, (changed.before ->> 'is_inferred')::boolean, (changed.before ->> 'is_deleted')::boolean, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_payment_method_at(as_of_run_id bigint) IS 'What dwh.dim_payment_method said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_product_at(as_of_run_id bigint) RETURNS TABLE(product_key bigint, source_system text, product_id text, company_id text, name text, category text, brand text, price_default_amount numeric, price_amount numeric, currency text, valid_from timestamp with time zone, valid_to timestamp with time zone, is_current boolean, is_inferred boolean, row_hash bigint, run_id bigint, closed_by_run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_product'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."product_key", "now"."source_system", "now"."product_id", "now"."company_id", "now"."name", "now"."category", "now"."brand", "now"."price_default_amount", "now"."price_amount", "now"."currency", "now"."valid_from", "now"."valid_to", "now"."is_current", "now"."is_inferred", "now"."row_hash", "now"."run_id", "now"."closed_by_run_id" from "dwh"."dim_product" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."product_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'product_key')::bigint, (changed.before ->> 'source_system')::text, (changed.before ->> 'product_id')::text, (changed.before ->> 'company_id')::text, (changed.before ->> 'name')::text, (changed.before ->> 'category')::text, (changed.before ->> 'brand')::text, (changed.before ->> 'price_default_amount')::numeric(18,4), (changed.before ->> 'price_amount')::numeric(18,4), (changed.before ->> 'currency')::text, (changed.before ->> 'valid_from')::timestamp with time zone, (changed.before ->> 'valid_to')::timestamp with time zone, (changed.before ->> 'is_current')::boolean, (changed.before ->> 'is_inferred')::boolean, (changed.before ->> 'row_hash')::bigint, (changed.before ->> 'run_id')::bigint, (changed.before ->> 'closed_by_run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_product_at(as_of_run_id bigint) IS 'What dwh.dim_product said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_promotion_at(as_of_run_id bigint) RETURNS TABLE(promotion_key bigint, source_system text, promotion_id text, name text, discount_share numeric, starts_at timestamp with time zone, ends_at timestamp with time zone, is_inferred boolean, is_deleted boolean, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_promotion'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."promotion_key", "now"."source_system", "now"."promotion_id", "now"."name", "now"."discount_share", "now"."starts_at", "now"."ends_at", "now"."is_inferred", "now"."is_deleted", "now"."run_id" from "dwh"."dim_promotion" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."promotion_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'promotion_key')::bigint, (changed.before ->> 'source_system')::text, (changed.before ->> 'promotion_id')::text, (changed.before ->> 'name')::text, (changed.before ->> 'discount_share')::numeric(6,4), (changed.before ->> 'starts_at')::timestamp with time zone, (changed.before ->> 'ends_at')::timestamp with time zone, (changed.before ->> 'is_inferred')::boolean, (changed.before ->> 'is_deleted')::boolean, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_promotion_at(as_of_run_id bigint) IS 'What dwh.dim_promotion said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_referer_at(as_of_run_id bigint) RETURNS TABLE(referer_key integer, referer text, traffic_source_key smallint, text_hash uuid, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_referer'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."referer_key", "now"."referer", "now"."traffic_source_key", "now"."text_hash", "now"."run_id" from "dwh"."dim_referer" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."referer_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'referer_key')::integer, (changed.before ->> 'referer')::text, (changed.before ->> 'traffic_source_key')::smallint, (changed.before ->> 'text_hash')::uuid, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_referer_at(as_of_run_id bigint) IS 'What dwh.dim_referer said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_request_at(as_of_run_id bigint) RETURNS TABLE(request_key integer, request text, method text, path text, action text, product_id text, traffic_source_key smallint, text_hash uuid, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_request'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."request_key", "now"."request", "now"."method", "now"."path", "now"."action", "now"."product_id", "now"."traffic_source_key", "now"."text_hash", "now"."run_id" from "dwh"."dim_request" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."request_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'request_key')::integer, (changed.before ->> 'request')::text, (changed.before ->> 'method')::text, (changed.before ->> 'path')::text, (changed.before ->> 'action')::text, (changed.before ->> 'product_id')::text, (changed.before ->> 'traffic_source_key')::smallint, (changed.before ->> 'text_hash')::uuid, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_request_at(as_of_run_id bigint) IS 'What dwh.dim_request said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_traffic_source_at(as_of_run_id bigint) RETURNS TABLE(traffic_source_key smallint, name text, medium text, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_traffic_source'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."traffic_source_key", "now"."name", "now"."medium", "now"."run_id" from "dwh"."dim_traffic_source" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."traffic_source_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'traffic_source_key')::smallint, (changed.before ->> 'name')::text, (changed.before ->> 'medium')::text, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_traffic_source_at(as_of_run_id bigint) IS 'What dwh.dim_traffic_source said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_user_agent_at(as_of_run_id bigint) RETURNS TABLE(user_agent_key integer, user_agent text, device_key smallint, text_hash uuid, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_user_agent'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."user_agent_key", "now"."user_agent", "now"."device_key", "now"."text_hash", "now"."run_id" from "dwh"."dim_user_agent" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."user_agent_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'user_agent_key')::integer, (changed.before ->> 'user_agent')::text, (changed.before ->> 'device_key')::smallint, (changed.before ->> 'text_hash')::uuid, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_user_agent_at(as_of_run_id bigint) IS 'What dwh.dim_user_agent said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.dim_web_user_at(as_of_run_id bigint) RETURNS TABLE(web_user_key integer, user_name text, text_hash uuid, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.dim_web_user'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."web_user_key", "now"."user_name", "now"."text_hash", "now"."run_id" from "dwh"."dim_web_user" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."web_user_key"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'web_user_key')::integer, (changed.before ->> 'user_name')::text, (changed.before ->> 'text_hash')::uuid, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.dim_web_user_at(as_of_run_id bigint) IS 'What dwh.dim_web_user said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.each_key(relation oid, pattern text, separator text) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
        declare
            keys constant text := (
        select string_agg(format(pattern, attname), separator order by part.position)
        from pg_catalog.pg_index
        cross join unnest(indkey) with ordinality as part (attnum, position)
        inner join pg_catalog.pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
        where indrelid = relation and indisprimary
    );
        begin
            if keys is null then
                raise exception '% has no primary key: what its rows are cannot be kept, nor undone.',
                    relation::regclass
                    using hint = 'docs/model.md tells the key: alter table … add primary key (…).';
            end if;
            return keys;
        end
        $$;

COMMENT ON FUNCTION audit.each_key(relation oid, pattern text, separator text) IS 'What the pattern makes of each column of a table''s primary key.';

CREATE FUNCTION audit.fact_order_item_at(as_of_run_id bigint) RETURNS TABLE(order_id text, line_id text, source_system text, ordered_at timestamp with time zone, ordered_date_key integer, customer_key bigint, product_key bigint, company_key bigint, promotion_key bigint, payment_method_key bigint, distribution_center_key bigint, quantity numeric, base_unit_price_amount numeric, list_unit_price_amount numeric, net_unit_price_amount numeric, gross_amount numeric, discount_amount numeric, net_amount numeric, profit_amount numeric, currency text, status text, returned_at timestamp with time zone, returned_date_key integer, recorded_at timestamp with time zone, run_id bigint)
    LANGUAGE sql STABLE
    AS $$
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = 'dwh.fact_order_item'
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select "now"."order_id", "now"."line_id", "now"."source_system", "now"."ordered_at", "now"."ordered_date_key", "now"."customer_key", "now"."product_key", "now"."company_key", "now"."promotion_key", "now"."payment_method_key", "now"."distribution_center_key", "now"."quantity", "now"."base_unit_price_amount", "now"."list_unit_price_amount", "now"."net_unit_price_amount", "now"."gross_amount", "now"."discount_amount", "now"."net_amount", "now"."profit_amount", "now"."currency", "now"."status", "now"."returned_at", "now"."returned_date_key", "now"."recorded_at", "now"."run_id" from "dwh"."fact_order_item" as now
    where now.run_id not in (select later.run_id from later)
        and array["now"."order_id"::text, "now"."line_id"::text, "now"."source_system"::text] not in (select changed.row_key from changed)
    union all
    select (changed.before ->> 'order_id')::text, (changed.before ->> 'line_id')::text, (changed.before ->> 'source_system')::text, (changed.before ->> 'ordered_at')::timestamp with time zone, (changed.before ->> 'ordered_date_key')::integer, (changed.before ->> 'customer_key')::bigint, (changed.before ->> 'product_key')::bigint, (changed.before ->> 'company_key')::bigint, (changed.before ->> 'promotion_key')::bigint, (changed.before ->> 'payment_method_key')::bigint, (changed.before ->> 'distribution_center_key')::bigint, (changed.before ->> 'quantity')::numeric(18,3), (changed.before ->> 'base_unit_price_amount')::numeric(18,4), (changed.before ->> 'list_unit_price_amount')::numeric(18,4), (changed.before ->> 'net_unit_price_amount')::numeric(18,4), (changed.before ->> 'gross_amount')::numeric(18,4), (changed.before ->> 'discount_amount')::numeric(18,4), (changed.before ->> 'net_amount')::numeric(18,4), (changed.before ->> 'profit_amount')::numeric(18,4), (changed.before ->> 'currency')::text, (changed.before ->> 'status')::text, (changed.before ->> 'returned_at')::timestamp with time zone, (changed.before ->> 'returned_date_key')::integer, (changed.before ->> 'recorded_at')::timestamp with time zone, (changed.before ->> 'run_id')::bigint from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
$$;

COMMENT ON FUNCTION audit.fact_order_item_at(as_of_run_id bigint) IS 'What dwh.fact_order_item said when the given run had published; an error where that is not known.';

CREATE FUNCTION audit.keep_before_image() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    SET jit TO 'off'
    AS $_$
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
    $_$;

COMMENT ON FUNCTION audit.keep_before_image() IS 'Trigger: keeps what rows were in audit.before_image, for undo.';

CREATE FUNCTION audit.keep_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    SET jit TO 'off'
    AS $_$
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
    $_$;

COMMENT ON FUNCTION audit.keep_change() IS 'Trigger: tells audit.change what rows were and became, by whichever statement changed them.';

CREATE FUNCTION audit.published_after(as_of_run_id bigint) RETURNS TABLE(run_id bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
    $$;

COMMENT ON FUNCTION audit.published_after(as_of_run_id bigint) IS 'Runs that published after the given one; an error where that can no longer be told.';

CREATE FUNCTION audit.published_at(as_of_run_id bigint) RETURNS timestamp with time zone
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select max(loaded_at) from audit.load where run_id = as_of_run_id $$;

COMMENT ON FUNCTION audit.published_at(as_of_run_id bigint) IS 'When the run published.';

CREATE FUNCTION audit.row_image(relation oid, prefix text) RETURNS text
    LANGUAGE sql STABLE
    AS $$
        select format('array[%s]', string_agg(format('%s.%I::text', prefix, attname), ', ' order by attnum))
        from pg_catalog.pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
    $$;

COMMENT ON FUNCTION audit.row_image(relation oid, prefix text) IS 'Expression that makes a row of the table an array of texts.';

CREATE FUNCTION audit.row_layout(relation oid) RETURNS integer
    LANGUAGE plpgsql
    AS $$
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
    $$;

COMMENT ON FUNCTION audit.row_layout(relation oid) IS 'Layout of a table''s rows as they are now; made where it is new.';

CREATE FUNCTION audit.sales_change(earlier_run_id bigint, later_run_id bigint) RETURNS TABLE(source_system text, month date, currency text, cause text, run_id bigint, flow text, line_count bigint, net_amount numeric, returned_net_amount numeric)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$-- sales_change: why sales differ between what two runs left: one row per source, month, currency, cause and run.
-- inputs: $1 the earlier run, $2 the later one; audit.change_feed, audit.run, dwh.fact_order_item
-- A sale is a line that was not cancelled, in its order's month (UTC), as in mart.sales_by_month. The changes of each
-- month add up to the difference of its totals, to the cent.
with later as materialized (
    select published.run_id from audit.published_after($1) as published
),

between_them as materialized (
    select later.run_id from later
    except
    select published.run_id from audit.published_after($2) as published
),

-- Every change of a line since the earlier run, with what came next for the same line.
feed as materialized (
    select
        change.row_key,
        change.operation,
        change.run_id,
        change.flow,
        change.changed_at,
        change.before,
        change.after,
        row_number() over line = 1 as is_first,
        lead(change.change_id) over line is null as is_last,
        lead(change.operation) over line as next_operation,
        lead(change.before) over line as next_before
    from audit.change_feed as change
    where change.table_name = 'dwh.fact_order_item'
        and (
            change.run_id in (select later.run_id from later)
            or change.run_id is null and change.changed_at > audit.published_at($1)
        )
    window line as (partition by change.row_key order by change.change_id)
),

-- Nothing tells of an insert: a line is new where it stands without having stood there before.
inserted as (
    select feed.before as line
    from feed
    where feed.is_first and (feed.before ->> 'run_id')::bigint in (select later.run_id from later)
    union all
    select feed.next_before
    from feed
    where feed.after is null and feed.next_operation <> 'insert'
    union all
    select to_jsonb(now)
    from dwh.fact_order_item as now
    left join feed
        on feed.is_last and feed.row_key = array[now.order_id, now.line_id, now.source_system]
    where now.run_id in (select later.run_id from later) and feed.after is null
),

happened as (
    select
        feed.run_id,
        feed.flow,
        feed.before,
        feed.after,
        case
            when feed.flow = 'undo' then 'undone'
            when feed.run_id is null then 'by hand'
            when feed.after is null then 'deletion'
            when feed.after ->> 'status' = 'returned' and feed.before ->> 'status' <> 'returned' then 'return'
            when feed.after ->> 'status' = 'cancelled' and feed.before ->> 'status' <> 'cancelled' then 'cancellation'
            else 'correction'
        end as cause
    from feed
    where feed.run_id in (select between_them.run_id from between_them)
        or feed.run_id is null and feed.changed_at <= audit.published_at($2)
    union all
    select
        run.run_id,
        run.flow,
        null as before,
        inserted.line as after,
        case
            when (inserted.line ->> 'ordered_at')::timestamptz <= audit.published_at($1) then 'late order'
            else 'new order'
        end as cause
    from inserted
    inner join audit.run on (inserted.line ->> 'run_id')::bigint = run.run_id
    where run.run_id in (select between_them.run_id from between_them)
),

-- What each change takes from one month, and gives to the same or another one.
side as (
    select
        happened.run_id,
        happened.flow,
        happened.cause,
        image.line ->> 'source_system' as source_system,
        date_trunc('month', (image.line ->> 'ordered_at')::timestamptz at time zone 'UTC')::date as month,
        coalesce(image.line ->> 'currency', 'XXX') as currency,
        image.sign as line_count,
        image.line ->> 'status' as status,
        image.sign * (image.line ->> 'net_amount')::numeric as net_amount
    from happened
    cross join lateral (values (happened.before, -1), (happened.after, 1)) as image (line, sign)
    where image.line is not null
)

select
    side.source_system,
    side.month,
    side.currency,
    side.cause,
    side.run_id,
    side.flow,
    coalesce(sum(side.line_count) filter (where side.status <> 'cancelled'), 0)::bigint as line_count,
    coalesce(sum(side.net_amount) filter (where side.status <> 'cancelled'), 0) as net_amount,
    coalesce(sum(side.net_amount) filter (where side.status = 'returned'), 0) as returned_net_amount
from side
group by side.source_system, side.month, side.currency, side.cause, side.run_id, side.flow
having
    coalesce(sum(side.line_count) filter (where side.status <> 'cancelled'), 0) <> 0
    or coalesce(sum(side.net_amount) filter (where side.status <> 'cancelled'), 0) <> 0
    or coalesce(sum(side.net_amount) filter (where side.status = 'returned'), 0) <> 0
order by side.source_system, side.month, side.currency, side.run_id, side.cause
$_$;

COMMENT ON FUNCTION audit.sales_change(earlier_run_id bigint, later_run_id bigint) IS 'Why sales differ between what two runs left: per source, month, currency, cause (new order, late order, return, cancellation, correction, deletion, undone, by hand) and run, lines and amounts that add up to the difference.';

CREATE TABLE audit.before_image (
    image_id bigint NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key text[],
    run_id bigint,
    database_user text NOT NULL,
    kept_at timestamp with time zone NOT NULL,
    layout_id integer NOT NULL,
    before text[] NOT NULL,
    CONSTRAINT ck_before_image_operation CHECK ((operation = ANY (ARRAY['update'::text, 'delete'::text, 'truncate'::text, 'alter'::text])))
);

COMMENT ON TABLE audit.before_image IS 'One row per row of mirrors, watermarks, quarantine, files and counts that was updated or deleted: what it was before, for `dwh undo`.';

COMMENT ON COLUMN audit.before_image.image_id IS 'Id of the image, in order';

COMMENT ON COLUMN audit.before_image.table_name IS 'Table, with its schema';

COMMENT ON COLUMN audit.before_image.operation IS 'update, delete or truncate; alter: a column was added, which before names';

COMMENT ON COLUMN audit.before_image.row_key IS 'Primary key of the row, as text, in the key''s order; empty where the table has none';

COMMENT ON COLUMN audit.before_image.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.before_image.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.before_image.kept_at IS 'When (UTC)';

COMMENT ON COLUMN audit.before_image.layout_id IS 'Names of the row''s columns: audit.layout';

COMMENT ON COLUMN audit.before_image.before IS 'The row before the change, every value as its text (personal data)';

ALTER TABLE audit.before_image ALTER COLUMN image_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.before_image_image_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.change (
    change_id bigint NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key text[] NOT NULL,
    run_id bigint,
    database_user text NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    layout_id integer NOT NULL,
    before text[],
    after text[],
    CONSTRAINT ck_change_operation CHECK ((operation = ANY (ARRAY['insert'::text, 'update'::text, 'delete'::text, 'truncate'::text])))
);

COMMENT ON TABLE audit.change IS 'One row per row of the star that was updated or deleted, by a run or by hand; inserts cost nothing here. Read it as audit.change_feed, or per table as audit.<table>_change.';

COMMENT ON COLUMN audit.change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.change.table_name IS 'Table, with its schema';

COMMENT ON COLUMN audit.change.operation IS 'update, delete or truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.change.row_key IS 'Primary key of the row, as text, in the key''s order; empty where the table has none';

COMMENT ON COLUMN audit.change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.change.layout_id IS 'Names of the row''s columns: audit.layout';

COMMENT ON COLUMN audit.change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.change.after IS 'The row after the change, every value as its text (personal data)';

ALTER TABLE audit.change ALTER COLUMN change_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.change_change_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.layout (
    layout_id integer NOT NULL,
    columns text[] NOT NULL
);

COMMENT ON TABLE audit.layout IS 'One row per shape that tables have had: what the values of their kept rows are called.';

COMMENT ON COLUMN audit.layout.layout_id IS 'Id of the layout';

COMMENT ON COLUMN audit.layout.columns IS 'Columns, in the order of the values';

CREATE TABLE audit.run (
    run_id bigint NOT NULL,
    flow text NOT NULL,
    deployment text,
    prefect_run_id uuid,
    launched_by text NOT NULL,
    code_version text NOT NULL,
    parameters jsonb DEFAULT '{}'::jsonb NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    status text NOT NULL,
    error text,
    advice text,
    parent_run_id bigint,
    resumes_run_id bigint,
    undone_at timestamp with time zone,
    undone_by_run_id bigint,
    pruned_at timestamp with time zone,
    CONSTRAINT ck_run_status CHECK ((status = ANY (ARRAY['running'::text, 'succeeded'::text, 'failed'::text, 'stopped'::text, 'crashed'::text, 'skipped'::text, 'undone'::text, 'dry run'::text])))
);

COMMENT ON TABLE audit.run IS 'One row per run of a flow; a run that is alive holds an advisory lock on its id.';

COMMENT ON COLUMN audit.run.run_id IS 'Id that every row loaded by the run carries';

COMMENT ON COLUMN audit.run.flow IS 'Flow that ran, as ingest-shop';

COMMENT ON COLUMN audit.run.deployment IS 'Deployment that started it, if one did';

COMMENT ON COLUMN audit.run.prefect_run_id IS 'Flow run in Prefect, if there is one';

COMMENT ON COLUMN audit.run.launched_by IS 'User or service that started it';

COMMENT ON COLUMN audit.run.code_version IS 'Commit of the code that ran';

COMMENT ON COLUMN audit.run.parameters IS 'Parameters of the run; never a secret';

COMMENT ON COLUMN audit.run.host IS 'Machine that ran it';

COMMENT ON COLUMN audit.run.pid IS 'Process on that machine';

COMMENT ON COLUMN audit.run.started_at IS 'When it started (UTC)';

COMMENT ON COLUMN audit.run.ended_at IS 'When it ended (UTC); empty while it runs';

COMMENT ON COLUMN audit.run.status IS 'running, succeeded, failed, stopped (by a gate or brake), crashed, skipped (another run held the lock), undone or dry run';

COMMENT ON COLUMN audit.run.error IS 'What went wrong, in a sentence';

COMMENT ON COLUMN audit.run.advice IS 'What to do about it';

COMMENT ON COLUMN audit.run.parent_run_id IS 'Run that this one is a step of, if it is one';

COMMENT ON COLUMN audit.run.resumes_run_id IS 'Run that this one goes on from, if it does: what had succeeded there is not done again';

COMMENT ON COLUMN audit.run.undone_at IS 'When what it published was taken back (UTC)';

COMMENT ON COLUMN audit.run.undone_by_run_id IS 'Run that took back what it published';

COMMENT ON COLUMN audit.run.pruned_at IS 'When its before-images were given up (UTC): it can no longer be undone, nor the star be read as it left it';

CREATE VIEW audit.change_feed AS
 SELECT change.change_id,
    change.changed_at,
    change.table_name,
    change.operation,
    change.row_key,
    change.run_id,
    run.flow,
    change.database_user,
        CASE
            WHEN (change.operation = 'update'::text) THEN ARRAY( SELECT cell.name
               FROM UNNEST(layout.columns, change.before, change.after) cell(name, old, new)
              WHERE (cell.old IS DISTINCT FROM cell.new))
            ELSE NULL::text[]
        END AS changed_columns,
    jsonb_object(layout.columns, change.before) AS before,
    jsonb_object(layout.columns, change.after) AS after
   FROM ((audit.change
     JOIN audit.layout ON ((change.layout_id = layout.layout_id)))
     LEFT JOIN audit.run ON ((change.run_id = run.run_id)));

COMMENT ON VIEW audit.change_feed IS 'Every row of the star that was updated or deleted: what it was, what it became, when, and by whom.';

COMMENT ON COLUMN audit.change_feed.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.change_feed.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.change_feed.table_name IS 'Table, with its schema';

COMMENT ON COLUMN audit.change_feed.operation IS 'update, delete, truncate or insert';

COMMENT ON COLUMN audit.change_feed.row_key IS 'Primary key of the row, as text, in the key''s order; empty where the table has none';

COMMENT ON COLUMN audit.change_feed.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.change_feed.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.change_feed.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.change_feed.changed_columns IS 'Columns that an update changed';

COMMENT ON COLUMN audit.change_feed.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.change_feed.after IS 'The row after the change, every value as its text (personal data)';

CREATE TABLE audit.check_result (
    check_result_id bigint NOT NULL,
    run_id bigint NOT NULL,
    source text NOT NULL,
    dataset text NOT NULL,
    check_name text NOT NULL,
    check_type text NOT NULL,
    column_name text,
    level text NOT NULL,
    outcome text NOT NULL,
    measured numeric,
    threshold text,
    rows_checked bigint,
    message text,
    checked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_check_result_outcome CHECK ((outcome = ANY (ARRAY['passed'::text, 'failed'::text, 'warned'::text, 'not_evaluated'::text, 'not_applicable'::text])))
);

COMMENT ON TABLE audit.check_result IS 'One row per run, dataset and check of its contract; kept also when the check stopped the run.';

COMMENT ON COLUMN audit.check_result.check_result_id IS 'Id of the result';

COMMENT ON COLUMN audit.check_result.run_id IS 'Run that was checked';

COMMENT ON COLUMN audit.check_result.source IS 'Source system or feed';

COMMENT ON COLUMN audit.check_result.dataset IS 'Table or batch that was checked';

COMMENT ON COLUMN audit.check_result.check_name IS 'Name of the check in the contract';

COMMENT ON COLUMN audit.check_result.check_type IS 'Kind of check, as missing, failed_rows or duplicate';

COMMENT ON COLUMN audit.check_result.column_name IS 'Column, for checks of one column';

COMMENT ON COLUMN audit.check_result.level IS 'quarantine (moves rows), fail (stops the run) or warn';

COMMENT ON COLUMN audit.check_result.outcome IS 'passed, failed, warned, not_evaluated or not_applicable';

COMMENT ON COLUMN audit.check_result.measured IS 'What was measured, mostly the number of failing rows';

COMMENT ON COLUMN audit.check_result.threshold IS 'What was demanded';

COMMENT ON COLUMN audit.check_result.rows_checked IS 'Rows in the batch';

COMMENT ON COLUMN audit.check_result.message IS 'What else there is to say';

COMMENT ON COLUMN audit.check_result.checked_at IS 'When it was checked (UTC)';

ALTER TABLE audit.check_result ALTER COLUMN check_result_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.check_result_check_result_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.difference (
    difference_id bigint NOT NULL,
    run_id bigint NOT NULL,
    layer text NOT NULL,
    source text NOT NULL,
    table_name text NOT NULL,
    row_key jsonb NOT NULL,
    problem text NOT NULL,
    before jsonb,
    after jsonb,
    is_repaired boolean NOT NULL,
    found_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE audit.difference IS 'Rows that a reconcile found different, the first of each table: what they said, and what they ought to say.';

COMMENT ON COLUMN audit.difference.difference_id IS 'Id of the difference';

COMMENT ON COLUMN audit.difference.run_id IS 'Run that found it';

COMMENT ON COLUMN audit.difference.layer IS 'mirror, star, weblog or mart';

COMMENT ON COLUMN audit.difference.source IS 'Source system or feed';

COMMENT ON COLUMN audit.difference.table_name IS 'Table, with its schema';

COMMENT ON COLUMN audit.difference.row_key IS 'Key of the row';

COMMENT ON COLUMN audit.difference.problem IS 'missing, extra, doubled, changed or unmendable';

COMMENT ON COLUMN audit.difference.before IS 'What the row said, as text: of a changed one the columns that differ (may be personal data)';

COMMENT ON COLUMN audit.difference.after IS 'What it ought to say, likewise (may be personal data)';

COMMENT ON COLUMN audit.difference.is_repaired IS 'Whether the run mended it';

COMMENT ON COLUMN audit.difference.found_at IS 'When it was found (UTC)';

ALTER TABLE audit.difference ALTER COLUMN difference_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.difference_difference_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW audit.dim_company_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'company_key'::text))::bigint AS company_key,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    (COALESCE(feed.before, feed.after) ->> 'company_id'::text) AS company_id,
    ((COALESCE(feed.before, feed.after) ->> 'valid_from'::text))::timestamp with time zone AS valid_from,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_company'::text);

COMMENT ON VIEW audit.dim_company_change IS 'Every row of dwh.dim_company that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_company_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_company_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_company_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_company_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_company_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_company_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_company_change.company_key IS 'Key of this version; 0 is the unknown company';

COMMENT ON COLUMN audit.dim_company_change.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN audit.dim_company_change.company_id IS 'Natural key: the company''s key in the source';

COMMENT ON COLUMN audit.dim_company_change.valid_from IS 'First moment at which this version holds (UTC); 1900-01-01: since ever';

COMMENT ON COLUMN audit.dim_company_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_company_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_company_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_company_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_country_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    (COALESCE(feed.before, feed.after) ->> 'country'::text) AS country,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_country'::text);

COMMENT ON VIEW audit.dim_country_change IS 'Every row of dwh.dim_country that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_country_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_country_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_country_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_country_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_country_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_country_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_country_change.country IS 'Code, ISO 3166-1 alpha-2; ZZ is unknown';

COMMENT ON COLUMN audit.dim_country_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_country_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_country_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_country_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_customer_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'customer_key'::text))::bigint AS customer_key,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    (COALESCE(feed.before, feed.after) ->> 'customer_id'::text) AS customer_id,
    ((COALESCE(feed.before, feed.after) ->> 'valid_from'::text))::timestamp with time zone AS valid_from,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_customer'::text);

COMMENT ON VIEW audit.dim_customer_change IS 'Every row of dwh.dim_customer that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_customer_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_customer_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_customer_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_customer_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_customer_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_customer_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_customer_change.customer_key IS 'Key of this version; 0 is the unknown customer';

COMMENT ON COLUMN audit.dim_customer_change.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN audit.dim_customer_change.customer_id IS 'Natural key: the customer''s key in the source';

COMMENT ON COLUMN audit.dim_customer_change.valid_from IS 'First moment at which this version holds (UTC); 1900-01-01: since ever';

COMMENT ON COLUMN audit.dim_customer_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_customer_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_customer_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_customer_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_date_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'date_key'::text))::integer AS date_key,
    ((COALESCE(feed.before, feed.after) ->> 'date'::text))::date AS date,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_date'::text);

COMMENT ON VIEW audit.dim_date_change IS 'Every row of dwh.dim_date that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_date_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_date_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_date_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_date_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_date_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_date_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_date_change.date_key IS 'Day as the number yyyymmdd; 0 is the unknown day';

COMMENT ON COLUMN audit.dim_date_change.date IS 'The day; empty for the unknown day';

COMMENT ON COLUMN audit.dim_date_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_date_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_date_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_date_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_device_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'device_key'::text))::smallint AS device_key,
    (COALESCE(feed.before, feed.after) ->> 'family'::text) AS family,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_device'::text);

COMMENT ON VIEW audit.dim_device_change IS 'Every row of dwh.dim_device that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_device_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_device_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_device_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_device_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_device_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_device_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_device_change.device_key IS 'Key; 0 is the unknown device';

COMMENT ON COLUMN audit.dim_device_change.family IS 'Device family, as iPhone, Mac, Spider or Other';

COMMENT ON COLUMN audit.dim_device_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_device_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_device_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_device_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_distribution_center_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'distribution_center_key'::text))::bigint AS distribution_center_key,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    (COALESCE(feed.before, feed.after) ->> 'distribution_center_id'::text) AS distribution_center_id,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_distribution_center'::text);

COMMENT ON VIEW audit.dim_distribution_center_change IS 'Every row of dwh.dim_distribution_center that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_distribution_center_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_distribution_center_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_distribution_center_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_distribution_center_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_distribution_center_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_distribution_center_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_distribution_center_change.distribution_center_key IS 'Key; 0 is the unknown distribution_center';

COMMENT ON COLUMN audit.dim_distribution_center_change.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN audit.dim_distribution_center_change.distribution_center_id IS 'Natural key: the distribution_center''s key in the source';

COMMENT ON COLUMN audit.dim_distribution_center_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_distribution_center_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_distribution_center_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_distribution_center_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_payment_method_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'payment_method_key'::text))::bigint AS payment_method_key,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    (COALESCE(feed.before, feed.after) ->> 'payment_method_id'::text) AS payment_method_id,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_payment_method'::text);

COMMENT ON VIEW audit.dim_payment_method_change IS 'Every row of dwh.dim_payment_method that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_payment_method_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_payment_method_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_payment_method_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_payment_method_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_payment_method_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_payment_method_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_payment_method_change.payment_method_key IS 'Key; 0 is the unknown payment_method';

COMMENT ON COLUMN audit.dim_payment_method_change.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN audit.dim_payment_method_change.payment_method_id IS 'Natural key: the payment_method''s key in the source';

COMMENT ON COLUMN audit.dim_payment_method_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_payment_method_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_payment_method_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_payment_method_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_product_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'product_key'::text))::bigint AS product_key,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    (COALESCE(feed.before, feed.after) ->> 'product_id'::text) AS product_id,
    ((COALESCE(feed.before, feed.after) ->> 'valid_from'::text))::timestamp with time zone AS valid_from,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_product'::text);

COMMENT ON VIEW audit.dim_product_change IS 'Every row of dwh.dim_product that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_product_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_product_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_product_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_product_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_product_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_product_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_product_change.product_key IS 'Key of this version; 0 is the unknown product';

COMMENT ON COLUMN audit.dim_product_change.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN audit.dim_product_change.product_id IS 'Natural key: the product''s key in the source';

COMMENT ON COLUMN audit.dim_product_change.valid_from IS 'First moment at which this version holds (UTC); 1900-01-01: since ever';

COMMENT ON COLUMN audit.dim_product_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_product_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_product_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_product_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_promotion_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'promotion_key'::text))::bigint AS promotion_key,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    (COALESCE(feed.before, feed.after) ->> 'promotion_id'::text) AS promotion_id,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_promotion'::text);

COMMENT ON VIEW audit.dim_promotion_change IS 'Every row of dwh.dim_promotion that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_promotion_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_promotion_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_promotion_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_promotion_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_promotion_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_promotion_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_promotion_change.promotion_key IS 'Key; 0 is the unknown promotion';

COMMENT ON COLUMN audit.dim_promotion_change.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN audit.dim_promotion_change.promotion_id IS 'Natural key: the promotion''s key in the source';

COMMENT ON COLUMN audit.dim_promotion_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_promotion_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_promotion_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_promotion_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_referer_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'referer_key'::text))::integer AS referer_key,
    ((COALESCE(feed.before, feed.after) ->> 'text_hash'::text))::uuid AS text_hash,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_referer'::text);

COMMENT ON VIEW audit.dim_referer_change IS 'Every row of dwh.dim_referer that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_referer_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_referer_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_referer_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_referer_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_referer_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_referer_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_referer_change.referer_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN audit.dim_referer_change.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN audit.dim_referer_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_referer_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_referer_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_referer_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_request_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'request_key'::text))::integer AS request_key,
    ((COALESCE(feed.before, feed.after) ->> 'text_hash'::text))::uuid AS text_hash,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_request'::text);

COMMENT ON VIEW audit.dim_request_change IS 'Every row of dwh.dim_request that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_request_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_request_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_request_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_request_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_request_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_request_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_request_change.request_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN audit.dim_request_change.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN audit.dim_request_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_request_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_request_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_request_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_traffic_source_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'traffic_source_key'::text))::smallint AS traffic_source_key,
    (COALESCE(feed.before, feed.after) ->> 'name'::text) AS name,
    (COALESCE(feed.before, feed.after) ->> 'medium'::text) AS medium,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_traffic_source'::text);

COMMENT ON VIEW audit.dim_traffic_source_change IS 'Every row of dwh.dim_traffic_source that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_traffic_source_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_traffic_source_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_traffic_source_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_traffic_source_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_traffic_source_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_traffic_source_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_traffic_source_change.traffic_source_key IS 'Key; 0 is direct: neither campaign nor referer';

COMMENT ON COLUMN audit.dim_traffic_source_change.name IS 'utm_source, or the referring site''s name';

COMMENT ON COLUMN audit.dim_traffic_source_change.medium IS 'direct, campaign, search, social, internal or referral';

COMMENT ON COLUMN audit.dim_traffic_source_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_traffic_source_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_traffic_source_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_traffic_source_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_user_agent_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'user_agent_key'::text))::integer AS user_agent_key,
    ((COALESCE(feed.before, feed.after) ->> 'text_hash'::text))::uuid AS text_hash,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_user_agent'::text);

COMMENT ON VIEW audit.dim_user_agent_change IS 'Every row of dwh.dim_user_agent that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_user_agent_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_user_agent_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_user_agent_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_user_agent_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_user_agent_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_user_agent_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_user_agent_change.user_agent_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN audit.dim_user_agent_change.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN audit.dim_user_agent_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_user_agent_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_user_agent_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_user_agent_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.dim_web_user_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    ((COALESCE(feed.before, feed.after) ->> 'web_user_key'::text))::integer AS web_user_key,
    ((COALESCE(feed.before, feed.after) ->> 'text_hash'::text))::uuid AS text_hash,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.dim_web_user'::text);

COMMENT ON VIEW audit.dim_web_user_change IS 'Every row of dwh.dim_web_user that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.dim_web_user_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.dim_web_user_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.dim_web_user_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.dim_web_user_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.dim_web_user_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.dim_web_user_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.dim_web_user_change.web_user_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN audit.dim_web_user_change.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN audit.dim_web_user_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.dim_web_user_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.dim_web_user_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.dim_web_user_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE VIEW audit.fact_order_item_change AS
 SELECT feed.change_id,
    feed.changed_at,
    feed.operation,
    feed.run_id,
    feed.flow,
    feed.database_user,
    (COALESCE(feed.before, feed.after) ->> 'order_id'::text) AS order_id,
    (COALESCE(feed.before, feed.after) ->> 'line_id'::text) AS line_id,
    (COALESCE(feed.before, feed.after) ->> 'source_system'::text) AS source_system,
    changed.names AS changed_columns,
    ( SELECT string_agg(format('%s: %s → %s'::text, one.name, COALESCE((feed.before ->> one.name), '-'::text), COALESCE((feed.after ->> one.name), '-'::text)), '; '::text ORDER BY one."position") AS string_agg
           FROM unnest(changed.names) WITH ORDINALITY one(name, "position")) AS changes,
    feed.before,
    feed.after
   FROM (audit.change_feed feed
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (feed.operation = 'update'::text) THEN ARRAY( SELECT one.name
                       FROM unnest(feed.changed_columns) WITH ORDINALITY one(name, "position")
                      WHERE (one.name <> ALL ('{run_id,closed_by_run_id,row_hash}'::text[]))
                      ORDER BY one."position")
                    ELSE NULL::text[]
                END AS names) changed)
  WHERE (feed.table_name = 'dwh.fact_order_item'::text);

COMMENT ON VIEW audit.fact_order_item_change IS 'Every row of dwh.fact_order_item that was updated or deleted: by whom, and what it was before.';

COMMENT ON COLUMN audit.fact_order_item_change.change_id IS 'Id of the change, in order';

COMMENT ON COLUMN audit.fact_order_item_change.changed_at IS 'When (UTC)';

COMMENT ON COLUMN audit.fact_order_item_change.operation IS 'update, delete, truncate; insert only where an undo or a changed key brought a row';

COMMENT ON COLUMN audit.fact_order_item_change.run_id IS 'Run that changed it; empty: somebody did by hand';

COMMENT ON COLUMN audit.fact_order_item_change.flow IS 'Flow of that run';

COMMENT ON COLUMN audit.fact_order_item_change.database_user IS 'Login that changed it';

COMMENT ON COLUMN audit.fact_order_item_change.order_id IS 'Natural key: the order''s key in the source';

COMMENT ON COLUMN audit.fact_order_item_change.line_id IS 'Natural key: the line within the order';

COMMENT ON COLUMN audit.fact_order_item_change.source_system IS 'Source system that the natural keys belong to';

COMMENT ON COLUMN audit.fact_order_item_change.changed_columns IS 'Columns that an update changed, without housekeeping';

COMMENT ON COLUMN audit.fact_order_item_change.changes IS 'The same with old and new values, to read (personal data)';

COMMENT ON COLUMN audit.fact_order_item_change.before IS 'The row before the change, every value as its text (personal data)';

COMMENT ON COLUMN audit.fact_order_item_change.after IS 'The row after the change, every value as its text (personal data)';

CREATE TABLE audit.file (
    file_id integer NOT NULL,
    feed text NOT NULL,
    path text NOT NULL,
    head_bytes integer NOT NULL,
    head_hash text NOT NULL,
    tail_hash text NOT NULL,
    size_bytes bigint NOT NULL,
    modified_ns bigint NOT NULL,
    byte_offset bigint NOT NULL,
    line_count bigint NOT NULL,
    lines_elsewhere bigint DEFAULT 0 NOT NULL,
    rows_loaded bigint NOT NULL,
    rows_quarantined bigint NOT NULL,
    open_line_offset bigint,
    status text NOT NULL,
    message text,
    run_id bigint NOT NULL,
    first_seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    loaded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    rows_removed bigint DEFAULT 0 NOT NULL,
    first_event_at timestamp with time zone,
    last_event_at timestamp with time zone,
    CONSTRAINT ck_file_line_count CHECK ((line_count = ((lines_elsewhere + rows_loaded) + rows_quarantined))),
    CONSTRAINT ck_file_rows_removed CHECK ((rows_removed <= rows_loaded)),
    CONSTRAINT ck_file_status CHECK ((status = ANY (ARRAY['loaded'::text, 'partial'::text, 'truncated'::text, 'copy'::text, 'replaced'::text])))
);

COMMENT ON TABLE audit.file IS 'One row per file of a feed: how far it is loaded; moves only in the transaction that loads its rows.';

COMMENT ON COLUMN audit.file.file_id IS 'Id that every row loaded from the file carries';

COMMENT ON COLUMN audit.file.feed IS 'Feed that the file belongs to, as weblogs';

COMMENT ON COLUMN audit.file.path IS 'Where it was seen last, relative to the feed''s landing folder';

COMMENT ON COLUMN audit.file.head_bytes IS 'How many of its first (decompressed) bytes are hashed';

COMMENT ON COLUMN audit.file.head_hash IS 'SHA-256 of these: tells a rotated or replaced file from a growing one';

COMMENT ON COLUMN audit.file.tail_hash IS 'SHA-256 of the last bytes before byte_offset, at most as many as at the head';

COMMENT ON COLUMN audit.file.size_bytes IS 'Size on disk when it was loaded last';

COMMENT ON COLUMN audit.file.modified_ns IS 'Modification time when it was loaded last, nanoseconds since 1970';

COMMENT ON COLUMN audit.file.byte_offset IS 'How many of its (decompressed) bytes are loaded';

COMMENT ON COLUMN audit.file.line_count IS 'Lines read: lines_elsewhere + rows_loaded + rows_quarantined, always';

COMMENT ON COLUMN audit.file.lines_elsewhere IS 'Lines at its beginning that are loaded as another file''s, of which it is a copy';

COMMENT ON COLUMN audit.file.rows_loaded IS 'Lines that became rows';

COMMENT ON COLUMN audit.file.rows_quarantined IS 'Lines that went to audit.quarantine';

COMMENT ON COLUMN audit.file.open_line_offset IS 'Where the last line starts, if it had no end when it was read';

COMMENT ON COLUMN audit.file.status IS 'loaded, partial, truncated, copy or replaced';

COMMENT ON COLUMN audit.file.message IS 'What else there is to say, as where a compressed file breaks off';

COMMENT ON COLUMN audit.file.run_id IS 'Run that loaded from it last';

COMMENT ON COLUMN audit.file.first_seen_at IS 'When it was first read (UTC)';

COMMENT ON COLUMN audit.file.loaded_at IS 'When it was last read (UTC)';

COMMENT ON COLUMN audit.file.rows_removed IS 'Of rows_loaded, those that retention or a backfill has removed since';

COMMENT ON COLUMN audit.file.first_event_at IS 'Earliest of its lines by their own time (UTC); empty while none is loaded';

COMMENT ON COLUMN audit.file.last_event_at IS 'Latest of its lines by their own time (UTC); empty while none is loaded';

ALTER TABLE audit.file ALTER COLUMN file_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.file_file_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.file_part (
    file_id integer NOT NULL,
    first_line bigint NOT NULL,
    line_count bigint NOT NULL,
    byte_offset bigint NOT NULL,
    byte_count bigint NOT NULL,
    rows_loaded bigint NOT NULL,
    rows_quarantined bigint NOT NULL,
    run_id bigint NOT NULL,
    CONSTRAINT ck_file_part_line_count CHECK ((line_count = (rows_loaded + rows_quarantined)))
);

COMMENT ON TABLE audit.file_part IS 'One row per piece of a file that was loaded at once; the database lets no two pieces of a file overlap, which is what keeps a line from being loaded twice.';

COMMENT ON COLUMN audit.file_part.file_id IS 'File';

COMMENT ON COLUMN audit.file_part.first_line IS 'Number of its first line, from 1';

COMMENT ON COLUMN audit.file_part.line_count IS 'Lines in it: rows_loaded + rows_quarantined';

COMMENT ON COLUMN audit.file_part.byte_offset IS '(Decompressed) byte at which its first line starts, from 0';

COMMENT ON COLUMN audit.file_part.byte_count IS 'Its (decompressed) bytes, line ends included';

COMMENT ON COLUMN audit.file_part.rows_loaded IS 'Lines that became rows';

COMMENT ON COLUMN audit.file_part.rows_quarantined IS 'Lines that went to audit.quarantine';

COMMENT ON COLUMN audit.file_part.run_id IS 'Run that loaded it';

ALTER TABLE audit.layout ALTER COLUMN layout_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.layout_layout_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.load (
    load_id bigint NOT NULL,
    run_id bigint NOT NULL,
    source text NOT NULL,
    table_name text NOT NULL,
    window_low text,
    window_high text,
    rows_read bigint NOT NULL,
    rows_inserted bigint NOT NULL,
    rows_updated bigint NOT NULL,
    rows_closed bigint NOT NULL,
    rows_deleted bigint NOT NULL,
    rows_unchanged bigint NOT NULL,
    rows_quarantined bigint NOT NULL,
    rows_cursor_missed bigint NOT NULL,
    seconds double precision NOT NULL,
    loaded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    geoip_database text,
    geoip_built_at timestamp with time zone,
    rows_rekeyed bigint DEFAULT 0 NOT NULL
);

COMMENT ON TABLE audit.load IS 'One row per run and target table: what the run did to it, committed together with the rows.';

COMMENT ON COLUMN audit.load.load_id IS 'Id of the load';

COMMENT ON COLUMN audit.load.run_id IS 'Run that loaded';

COMMENT ON COLUMN audit.load.source IS 'Source system or feed';

COMMENT ON COLUMN audit.load.table_name IS 'Table that was loaded, with its schema';

COMMENT ON COLUMN audit.load.window_low IS 'Lower edge of what was read: cursor value or file position';

COMMENT ON COLUMN audit.load.window_high IS 'Upper edge of what was read';

COMMENT ON COLUMN audit.load.rows_read IS 'Rows that came in';

COMMENT ON COLUMN audit.load.rows_inserted IS 'Rows added, new versions included';

COMMENT ON COLUMN audit.load.rows_updated IS 'Rows changed in place';

COMMENT ON COLUMN audit.load.rows_closed IS 'Versions that were ended';

COMMENT ON COLUMN audit.load.rows_deleted IS 'Rows that vanished from the source';

COMMENT ON COLUMN audit.load.rows_unchanged IS 'Rows read again that had not changed';

COMMENT ON COLUMN audit.load.rows_quarantined IS 'Rows that broke a rule and wait in audit.quarantine';

COMMENT ON COLUMN audit.load.rows_cursor_missed IS 'Changed rows that a plain updated_at cursor would have lost';

COMMENT ON COLUMN audit.load.seconds IS 'Time taken, in seconds';

COMMENT ON COLUMN audit.load.loaded_at IS 'When it was loaded (UTC)';

COMMENT ON COLUMN audit.load.geoip_database IS 'Of a load of web logs: name of the database that told the countries of its addresses';

COMMENT ON COLUMN audit.load.geoip_built_at IS 'When that database was made (UTC)';

COMMENT ON COLUMN audit.load.rows_rekeyed IS 'Facts that were there and got other dimension rows: a version or a member came late';

ALTER TABLE audit.load ALTER COLUMN load_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.load_load_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.outbox (
    mail_id bigint NOT NULL,
    run_id bigint,
    flow text NOT NULL,
    kind text NOT NULL,
    problem text NOT NULL,
    subject text NOT NULL,
    body_text text NOT NULL,
    body_html text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seen_count integer DEFAULT 1 NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    resolved_at timestamp with time zone,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    sent_at timestamp with time zone,
    error text,
    CONSTRAINT ck_outbox_kind CHECK ((kind = ANY (ARRAY['failed'::text, 'crashed'::text, 'late'::text, 'gate stopped'::text, 'brake pulled'::text, 'differences found'::text, 'quarantine'::text, 'recovered'::text])))
);

COMMENT ON TABLE audit.outbox IS 'One row per mail, sent or waiting. One problem is one mail: while it lasts, it is counted, not told again.';

COMMENT ON COLUMN audit.outbox.mail_id IS 'Id of the mail';

COMMENT ON COLUMN audit.outbox.run_id IS 'Run that it tells of; empty where none ran when it should have';

COMMENT ON COLUMN audit.outbox.flow IS 'Flow that it tells of';

COMMENT ON COLUMN audit.outbox.kind IS 'What it tells: failed, crashed, late, gate stopped, brake pulled, differences found, quarantine, recovered';

COMMENT ON COLUMN audit.outbox.problem IS 'What makes two failures the same problem: flow, kind and error';

COMMENT ON COLUMN audit.outbox.subject IS 'Subject line';

COMMENT ON COLUMN audit.outbox.body_text IS 'The mail as plain text';

COMMENT ON COLUMN audit.outbox.body_html IS 'The mail as HTML';

COMMENT ON COLUMN audit.outbox.created_at IS 'When it was written (UTC)';

COMMENT ON COLUMN audit.outbox.seen_count IS 'How often the problem has been met';

COMMENT ON COLUMN audit.outbox.seen_at IS 'When it was last met (UTC)';

COMMENT ON COLUMN audit.outbox.resolved_at IS 'When the problem was over (UTC); empty while it lasts';

COMMENT ON COLUMN audit.outbox.due_at IS 'Not to be sent before (UTC)';

COMMENT ON COLUMN audit.outbox.attempts IS 'How often sending has been tried';

COMMENT ON COLUMN audit.outbox.sent_at IS 'When a mail server took it (UTC); empty while it waits';

COMMENT ON COLUMN audit.outbox.error IS 'What the mail server said to the last attempt that failed';

ALTER TABLE audit.outbox ALTER COLUMN mail_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.outbox_mail_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.partition_load (
    run_id bigint NOT NULL,
    feed text NOT NULL,
    partition_date date NOT NULL,
    status text NOT NULL,
    rows_loaded bigint DEFAULT 0 NOT NULL,
    message text,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_partition_load_status CHECK ((status = ANY (ARRAY['loaded'::text, 'failed'::text])))
);

COMMENT ON TABLE audit.partition_load IS 'One row per day of a feed that a backfill loaded anew: how that ended. `dwh status --days` shows the newest.';

COMMENT ON COLUMN audit.partition_load.run_id IS 'Backfill that loaded it';

COMMENT ON COLUMN audit.partition_load.feed IS 'Feed: a source, as shop, or weblogs';

COMMENT ON COLUMN audit.partition_load.partition_date IS 'Day (UTC), by the time of the events themselves';

COMMENT ON COLUMN audit.partition_load.status IS 'loaded or failed';

COMMENT ON COLUMN audit.partition_load.rows_loaded IS 'Rows of the day afterwards';

COMMENT ON COLUMN audit.partition_load.message IS 'What went wrong, or what else there is to say';

COMMENT ON COLUMN audit.partition_load.started_at IS 'When it was begun (UTC)';

COMMENT ON COLUMN audit.partition_load.ended_at IS 'When it was done (UTC)';

CREATE TABLE audit.personal_data (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    kind text NOT NULL
);

COMMENT ON TABLE audit.personal_data IS 'One row per column that holds personal data: where it is, and what kind it is.';

COMMENT ON COLUMN audit.personal_data.schema_name IS 'Schema';

COMMENT ON COLUMN audit.personal_data.table_name IS 'Table or view';

COMMENT ON COLUMN audit.personal_data.column_name IS 'Column';

COMMENT ON COLUMN audit.personal_data.kind IS 'Kind of personal data, as e-mail or birth date';

CREATE TABLE audit.proof (
    proof_id bigint NOT NULL,
    run_id bigint NOT NULL,
    source text NOT NULL,
    table_name text NOT NULL,
    rows_source bigint NOT NULL,
    rows_mirror bigint NOT NULL,
    chunks integer NOT NULL,
    chunks_differing integer NOT NULL,
    verdict text NOT NULL,
    seconds double precision NOT NULL,
    proved_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    layer text DEFAULT 'mirror'::text NOT NULL,
    rows_differing bigint DEFAULT 0 NOT NULL,
    rows_pending bigint DEFAULT 0 NOT NULL,
    rows_repaired bigint DEFAULT 0 NOT NULL,
    captured_at timestamp with time zone,
    amounts jsonb,
    CONSTRAINT ck_proof_layer CHECK ((layer = ANY (ARRAY['mirror'::text, 'star'::text, 'weblog'::text, 'mart'::text]))),
    CONSTRAINT ck_proof_verdict CHECK ((verdict = ANY (ARRAY['equal'::text, 'different'::text, 'repaired'::text, 'behind'::text])))
);

COMMENT ON TABLE audit.proof IS 'One row per run and table: is it what the layer below makes of it, to the row?';

COMMENT ON COLUMN audit.proof.proof_id IS 'Id of the proof';

COMMENT ON COLUMN audit.proof.run_id IS 'Run that was proved';

COMMENT ON COLUMN audit.proof.source IS 'Source system';

COMMENT ON COLUMN audit.proof.table_name IS 'Table in the source; of other layers, table with its schema';

COMMENT ON COLUMN audit.proof.rows_source IS 'Rows in the source at the run''s snapshot; of other layers, rows expected';

COMMENT ON COLUMN audit.proof.rows_mirror IS 'Rows in the mirror; of other layers, rows found';

COMMENT ON COLUMN audit.proof.chunks IS 'Chunks that were compared';

COMMENT ON COLUMN audit.proof.chunks_differing IS 'Chunks in which they differ';

COMMENT ON COLUMN audit.proof.verdict IS 'equal, different, repaired, or behind (a stored mart not refreshed yet)';

COMMENT ON COLUMN audit.proof.seconds IS 'Time taken, both sides, in seconds';

COMMENT ON COLUMN audit.proof.proved_at IS 'When it was proved (UTC)';

COMMENT ON COLUMN audit.proof.layer IS 'What was proved: mirror, star, weblog or mart';

COMMENT ON COLUMN audit.proof.rows_differing IS 'Rows that were not as they should be';

COMMENT ON COLUMN audit.proof.rows_pending IS 'Rows that the source has changed since the last run: no difference, but news';

COMMENT ON COLUMN audit.proof.rows_repaired IS 'Rows of these that were mended';

COMMENT ON COLUMN audit.proof.captured_at IS 'Source''s clock at the snapshot that was compared (UTC)';

COMMENT ON COLUMN audit.proof.amounts IS 'Sums of money as found and as expected, by column';

ALTER TABLE audit.proof ALTER COLUMN proof_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.proof_proof_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.quarantine (
    quarantine_id bigint NOT NULL,
    run_id bigint NOT NULL,
    source text NOT NULL,
    entity text NOT NULL,
    row_key text[],
    rules text[] NOT NULL,
    reason text NOT NULL,
    row_data jsonb,
    file_id integer,
    line_number bigint,
    byte_offset bigint,
    raw_text text,
    quarantined_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    resolved_at timestamp with time zone,
    resolved_run_id bigint,
    resolution text,
    CONSTRAINT ck_quarantine_resolution CHECK ((resolution = ANY (ARRAY['released'::text, 'replaced'::text, 'deleted'::text])))
);

COMMENT ON TABLE audit.quarantine IS 'Rows and lines that broke a rule, whole, with rule and reason; they are judged again until they pass.';

COMMENT ON COLUMN audit.quarantine.quarantine_id IS 'Id of the entry';

COMMENT ON COLUMN audit.quarantine.run_id IS 'Run that put it here';

COMMENT ON COLUMN audit.quarantine.source IS 'Source system or feed';

COMMENT ON COLUMN audit.quarantine.entity IS 'What it would have become, as order_item or weblog';

COMMENT ON COLUMN audit.quarantine.row_key IS 'Natural key of the row, where it has one';

COMMENT ON COLUMN audit.quarantine.rules IS 'Names of the rules that it broke';

COMMENT ON COLUMN audit.quarantine.reason IS 'The same in words';

COMMENT ON COLUMN audit.quarantine.row_data IS 'The row, whole (personal data)';

COMMENT ON COLUMN audit.quarantine.file_id IS 'File that it came from, for file feeds';

COMMENT ON COLUMN audit.quarantine.line_number IS 'Line in that file, from 1';

COMMENT ON COLUMN audit.quarantine.byte_offset IS 'Byte in that (decompressed) file at which the line starts, from 0';

COMMENT ON COLUMN audit.quarantine.raw_text IS 'The line as it stood; bytes that are no text are escaped (personal data)';

COMMENT ON COLUMN audit.quarantine.quarantined_at IS 'When it was put here (UTC)';

COMMENT ON COLUMN audit.quarantine.resolved_at IS 'When it passed or vanished (UTC); empty while it waits';

COMMENT ON COLUMN audit.quarantine.resolved_run_id IS 'Run that resolved it';

COMMENT ON COLUMN audit.quarantine.resolution IS 'released (it passes now), replaced (by a newer bad version) or deleted';

ALTER TABLE audit.quarantine ALTER COLUMN quarantine_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.quarantine_quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE audit.run ALTER COLUMN run_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.run_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE audit.watermark (
    source text NOT NULL,
    table_name text NOT NULL,
    cursor_value text,
    snapshot_xmin bigint NOT NULL,
    system_identifier text,
    timeline integer,
    captured_at timestamp with time zone NOT NULL,
    run_id bigint NOT NULL,
    was_quiet boolean DEFAULT false NOT NULL
);

COMMENT ON TABLE audit.watermark IS 'How far each source table is captured; moves only in the transaction that publishes the rows.';

COMMENT ON COLUMN audit.watermark.source IS 'Source system';

COMMENT ON COLUMN audit.watermark.table_name IS 'Table in the source';

COMMENT ON COLUMN audit.watermark.cursor_value IS 'Highest cursor seen, as exact database text; empty where there is no cursor';

COMMENT ON COLUMN audit.watermark.snapshot_xmin IS 'Oldest transaction still open at the last snapshot: the xid net';

COMMENT ON COLUMN audit.watermark.system_identifier IS 'Identity of the source''s cluster';

COMMENT ON COLUMN audit.watermark.timeline IS 'Timeline of the source''s cluster';

COMMENT ON COLUMN audit.watermark.captured_at IS 'Source''s clock at the last snapshot (UTC)';

COMMENT ON COLUMN audit.watermark.run_id IS 'Run that moved it last';

COMMENT ON COLUMN audit.watermark.was_quiet IS 'Whether no transaction was in flight at the last snapshot, so that none can commit late';

CREATE TABLE audit.weblog_month (
    request_month date NOT NULL,
    geoip_database text NOT NULL,
    geoip_built_at timestamp with time zone NOT NULL,
    rows_moved bigint NOT NULL,
    run_id bigint NOT NULL,
    classified_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE audit.weblog_month IS 'One row per month of web log requests whose countries were told again by a newer GeoIP database.';

COMMENT ON COLUMN audit.weblog_month.request_month IS 'First day of the month (UTC)';

COMMENT ON COLUMN audit.weblog_month.geoip_database IS 'Name of the database that told them last';

COMMENT ON COLUMN audit.weblog_month.geoip_built_at IS 'When that database was made (UTC)';

COMMENT ON COLUMN audit.weblog_month.rows_moved IS 'Requests that it moved to another country';

COMMENT ON COLUMN audit.weblog_month.run_id IS 'Run that did it';

COMMENT ON COLUMN audit.weblog_month.classified_at IS 'When it was done (UTC)';

CREATE TABLE dwh.agg_weblog_country (
    country text NOT NULL,
    request_count bigint NOT NULL,
    user_count bigint NOT NULL,
    run_id bigint NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE dwh.agg_weblog_country IS 'Requests and distinct logged users per country.';

COMMENT ON COLUMN dwh.agg_weblog_country.country IS 'Country: dim_country';

COMMENT ON COLUMN dwh.agg_weblog_country.request_count IS 'Requests';

COMMENT ON COLUMN dwh.agg_weblog_country.user_count IS 'Distinct logged users, exact: as many as its rows in the table of pairs';

COMMENT ON COLUMN dwh.agg_weblog_country.run_id IS 'Run that wrote the row last';

CREATE TABLE dwh.agg_weblog_country_product (
    country text NOT NULL,
    product_id text NOT NULL,
    view_count bigint NOT NULL,
    run_id bigint NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE dwh.agg_weblog_country_product IS 'Views per country and product.';

COMMENT ON COLUMN dwh.agg_weblog_country_product.country IS 'Country: dim_country';

COMMENT ON COLUMN dwh.agg_weblog_country_product.product_id IS 'Natural key of the product, as requested';

COMMENT ON COLUMN dwh.agg_weblog_country_product.view_count IS 'Requests with action view';

COMMENT ON COLUMN dwh.agg_weblog_country_product.run_id IS 'Run that wrote the row last';

CREATE TABLE dwh.agg_weblog_country_user (
    country text NOT NULL,
    web_user_key integer NOT NULL,
    run_id bigint NOT NULL,
    last_seen_date date
)
WITH (fillfactor='80');

COMMENT ON TABLE dwh.agg_weblog_country_user IS 'Each logged user once per country: the set that user counts are counted from.';

COMMENT ON COLUMN dwh.agg_weblog_country_user.country IS 'Country: dim_country';

COMMENT ON COLUMN dwh.agg_weblog_country_user.web_user_key IS 'User: dim_web_user';

COMMENT ON COLUMN dwh.agg_weblog_country_user.run_id IS 'Run in which the pair was seen first';

COMMENT ON COLUMN dwh.agg_weblog_country_user.last_seen_date IS 'Day (UTC) on which the pair was seen last; empty while a re-classification is to count it again';

CREATE TABLE dwh.agg_weblog_day (
    request_date date NOT NULL,
    action text NOT NULL,
    request_count bigint NOT NULL,
    run_id bigint NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE dwh.agg_weblog_day IS 'Requests per day and action.';

COMMENT ON COLUMN dwh.agg_weblog_day.request_date IS 'Day (UTC)';

COMMENT ON COLUMN dwh.agg_weblog_day.action IS 'view, search, add_to_cart, checkout, login or other';

COMMENT ON COLUMN dwh.agg_weblog_day.request_count IS 'Requests';

COMMENT ON COLUMN dwh.agg_weblog_day.run_id IS 'Run that wrote the row last';

CREATE TABLE dwh.agg_weblog_device (
    device_key smallint NOT NULL,
    request_count bigint NOT NULL,
    user_count bigint NOT NULL,
    run_id bigint NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE dwh.agg_weblog_device IS 'Requests and distinct logged users per device.';

COMMENT ON COLUMN dwh.agg_weblog_device.device_key IS 'Device: dim_device';

COMMENT ON COLUMN dwh.agg_weblog_device.request_count IS 'Requests';

COMMENT ON COLUMN dwh.agg_weblog_device.user_count IS 'Distinct logged users, exact: as many as its rows in the table of pairs';

COMMENT ON COLUMN dwh.agg_weblog_device.run_id IS 'Run that wrote the row last';

CREATE TABLE dwh.agg_weblog_device_user (
    device_key smallint NOT NULL,
    web_user_key integer NOT NULL,
    run_id bigint NOT NULL,
    last_seen_date date
)
WITH (fillfactor='80');

COMMENT ON TABLE dwh.agg_weblog_device_user IS 'Each logged user once per device: the set that user counts are counted from.';

COMMENT ON COLUMN dwh.agg_weblog_device_user.device_key IS 'Device: dim_device';

COMMENT ON COLUMN dwh.agg_weblog_device_user.web_user_key IS 'User: dim_web_user';

COMMENT ON COLUMN dwh.agg_weblog_device_user.run_id IS 'Run in which the pair was seen first';

COMMENT ON COLUMN dwh.agg_weblog_device_user.last_seen_date IS 'Day (UTC) on which the pair was seen last';

CREATE TABLE dwh.dim_company (
    company_key bigint NOT NULL,
    source_system text NOT NULL,
    company_id text NOT NULL,
    cuit text,
    name text,
    country text,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone DEFAULT '2100-01-01 00:00:00+00'::timestamp with time zone NOT NULL,
    is_current boolean DEFAULT true NOT NULL,
    is_inferred boolean DEFAULT false NOT NULL,
    row_hash bigint NOT NULL,
    run_id bigint NOT NULL,
    closed_by_run_id bigint,
    CONSTRAINT ck_dim_company_is_current CHECK ((is_current = (valid_to = '2100-01-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT ck_dim_company_valid CHECK ((valid_from < valid_to))
);

COMMENT ON TABLE dwh.dim_company IS 'Companies that sell: one row per version.';

COMMENT ON COLUMN dwh.dim_company.company_key IS 'Key of this version; 0 is the unknown company';

COMMENT ON COLUMN dwh.dim_company.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN dwh.dim_company.company_id IS 'Natural key: the company''s key in the source';

COMMENT ON COLUMN dwh.dim_company.cuit IS 'Tax number: 11 digits, the last a check digit';

COMMENT ON COLUMN dwh.dim_company.name IS 'Name of the company';

COMMENT ON COLUMN dwh.dim_company.country IS 'Country, ISO 3166-1 alpha-2 where the source has codes';

COMMENT ON COLUMN dwh.dim_company.valid_from IS 'First moment at which this version holds (UTC); 1900-01-01: since ever';

COMMENT ON COLUMN dwh.dim_company.valid_to IS 'First moment at which it no longer holds (UTC)';

COMMENT ON COLUMN dwh.dim_company.is_current IS 'Whether it is the version of now';

COMMENT ON COLUMN dwh.dim_company.is_inferred IS 'Whether a fact named this member before its source did';

COMMENT ON COLUMN dwh.dim_company.row_hash IS 'Hash of the tracked attributes';

COMMENT ON COLUMN dwh.dim_company.run_id IS 'Run that wrote this version last';

COMMENT ON COLUMN dwh.dim_company.closed_by_run_id IS 'Run that ended this version';

ALTER TABLE dwh.dim_company ALTER COLUMN company_key ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME dwh.dim_company_company_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE dwh.dim_country (
    country text NOT NULL,
    name text NOT NULL,
    run_id bigint NOT NULL,
    CONSTRAINT ck_dim_country_country CHECK ((country ~ '^[A-Z0-9]{2}$'::text))
);

COMMENT ON TABLE dwh.dim_country IS 'Countries, by the code that facts carry; ZZ is the unknown country. Those of web log addresses are told by the database that audit.load names: IP Geolocation by DB-IP (https://db-ip.com, CC BY 4.0), or GeoLite2 data created by MaxMind (https://www.maxmind.com).';

COMMENT ON COLUMN dwh.dim_country.country IS 'Code, ISO 3166-1 alpha-2; ZZ is unknown';

COMMENT ON COLUMN dwh.dim_country.name IS 'English short name';

COMMENT ON COLUMN dwh.dim_country.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.dim_customer (
    customer_key bigint NOT NULL,
    source_system text NOT NULL,
    customer_id text NOT NULL,
    document_number text,
    name text,
    username text,
    email text,
    birth_date date,
    country text,
    state text,
    latitude numeric(9,6),
    longitude numeric(9,6),
    loyalty_tier text,
    acquisition_source text,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone DEFAULT '2100-01-01 00:00:00+00'::timestamp with time zone NOT NULL,
    is_current boolean DEFAULT true NOT NULL,
    is_inferred boolean DEFAULT false NOT NULL,
    row_hash bigint NOT NULL,
    run_id bigint NOT NULL,
    closed_by_run_id bigint,
    CONSTRAINT ck_dim_customer_is_current CHECK ((is_current = (valid_to = '2100-01-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT ck_dim_customer_valid CHECK ((valid_from < valid_to))
);

COMMENT ON TABLE dwh.dim_customer IS 'Customers who buy: one row per version.';

COMMENT ON COLUMN dwh.dim_customer.customer_key IS 'Key of this version; 0 is the unknown customer';

COMMENT ON COLUMN dwh.dim_customer.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN dwh.dim_customer.customer_id IS 'Natural key: the customer''s key in the source';

COMMENT ON COLUMN dwh.dim_customer.document_number IS 'Number of the identity document (personal data)';

COMMENT ON COLUMN dwh.dim_customer.name IS 'Full name, or the company''s name (personal data)';

COMMENT ON COLUMN dwh.dim_customer.username IS 'Login name; the same as in web logs (not tracked) (personal data)';

COMMENT ON COLUMN dwh.dim_customer.email IS 'E-mail address (not tracked) (personal data)';

COMMENT ON COLUMN dwh.dim_customer.birth_date IS 'Date of birth (personal data)';

COMMENT ON COLUMN dwh.dim_customer.country IS 'Country, ISO 3166-1 alpha-2 where the source has codes';

COMMENT ON COLUMN dwh.dim_customer.state IS 'State, province or region';

COMMENT ON COLUMN dwh.dim_customer.latitude IS 'Latitude, degrees north (personal data)';

COMMENT ON COLUMN dwh.dim_customer.longitude IS 'Longitude, degrees east (personal data)';

COMMENT ON COLUMN dwh.dim_customer.loyalty_tier IS 'Tier in the loyalty programme';

COMMENT ON COLUMN dwh.dim_customer.acquisition_source IS 'Channel that the customer came by (not tracked)';

COMMENT ON COLUMN dwh.dim_customer.valid_from IS 'First moment at which this version holds (UTC); 1900-01-01: since ever';

COMMENT ON COLUMN dwh.dim_customer.valid_to IS 'First moment at which it no longer holds (UTC)';

COMMENT ON COLUMN dwh.dim_customer.is_current IS 'Whether it is the version of now';

COMMENT ON COLUMN dwh.dim_customer.is_inferred IS 'Whether a fact named this member before its source did';

COMMENT ON COLUMN dwh.dim_customer.row_hash IS 'Hash of the tracked attributes';

COMMENT ON COLUMN dwh.dim_customer.run_id IS 'Run that wrote this version last';

COMMENT ON COLUMN dwh.dim_customer.closed_by_run_id IS 'Run that ended this version';

ALTER TABLE dwh.dim_customer ALTER COLUMN customer_key ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME dwh.dim_customer_customer_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE dwh.dim_date (
    date_key integer NOT NULL,
    date date,
    year smallint,
    quarter smallint,
    month smallint,
    month_name text,
    month_start_date date,
    week_year smallint,
    week smallint,
    day_of_month smallint,
    day_of_year smallint,
    day_of_week smallint,
    day_name text,
    is_weekend boolean,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_date IS 'The calendar: one row per day; days outside are added when a fact needs them.';

COMMENT ON COLUMN dwh.dim_date.date_key IS 'Day as the number yyyymmdd; 0 is the unknown day';

COMMENT ON COLUMN dwh.dim_date.date IS 'The day; empty for the unknown day';

COMMENT ON COLUMN dwh.dim_date.year IS 'Year';

COMMENT ON COLUMN dwh.dim_date.quarter IS 'Quarter, 1 to 4';

COMMENT ON COLUMN dwh.dim_date.month IS 'Month, 1 to 12';

COMMENT ON COLUMN dwh.dim_date.month_name IS 'English name of the month';

COMMENT ON COLUMN dwh.dim_date.month_start_date IS 'First day of the month';

COMMENT ON COLUMN dwh.dim_date.week_year IS 'Year that the ISO week belongs to';

COMMENT ON COLUMN dwh.dim_date.week IS 'ISO week, 1 to 53';

COMMENT ON COLUMN dwh.dim_date.day_of_month IS 'Day of the month, 1 to 31';

COMMENT ON COLUMN dwh.dim_date.day_of_year IS 'Day of the year, 1 to 366';

COMMENT ON COLUMN dwh.dim_date.day_of_week IS 'ISO day of the week: 1 Monday to 7 Sunday';

COMMENT ON COLUMN dwh.dim_date.day_name IS 'English name of the day';

COMMENT ON COLUMN dwh.dim_date.is_weekend IS 'Saturday or Sunday';

COMMENT ON COLUMN dwh.dim_date.run_id IS 'Run that added the day; 0: the migration';

CREATE TABLE dwh.dim_device (
    device_key smallint NOT NULL,
    family text NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_device IS 'Device families, as ua-parser tells them from the user agent; key 0 where there was no user agent.';

COMMENT ON COLUMN dwh.dim_device.device_key IS 'Key; 0 is the unknown device';

COMMENT ON COLUMN dwh.dim_device.family IS 'Device family, as iPhone, Mac, Spider or Other';

COMMENT ON COLUMN dwh.dim_device.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.dim_distribution_center (
    distribution_center_key bigint NOT NULL,
    source_system text NOT NULL,
    distribution_center_id text NOT NULL,
    name text,
    latitude numeric(9,6),
    longitude numeric(9,6),
    is_inferred boolean DEFAULT false NOT NULL,
    is_deleted boolean DEFAULT false NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_distribution_center IS 'Distribution centers, as they are now.';

COMMENT ON COLUMN dwh.dim_distribution_center.distribution_center_key IS 'Key; 0 is the unknown distribution_center';

COMMENT ON COLUMN dwh.dim_distribution_center.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN dwh.dim_distribution_center.distribution_center_id IS 'Natural key: the distribution_center''s key in the source';

COMMENT ON COLUMN dwh.dim_distribution_center.name IS 'Name of the distribution center';

COMMENT ON COLUMN dwh.dim_distribution_center.latitude IS 'Latitude, degrees north';

COMMENT ON COLUMN dwh.dim_distribution_center.longitude IS 'Longitude, degrees east';

COMMENT ON COLUMN dwh.dim_distribution_center.is_inferred IS 'Whether a fact named this member before its source did';

COMMENT ON COLUMN dwh.dim_distribution_center.is_deleted IS 'Whether it is gone from the source';

COMMENT ON COLUMN dwh.dim_distribution_center.run_id IS 'Run that wrote this row last';

ALTER TABLE dwh.dim_distribution_center ALTER COLUMN distribution_center_key ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME dwh.dim_distribution_center_distribution_center_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE dwh.dim_payment_method (
    payment_method_key bigint NOT NULL,
    source_system text NOT NULL,
    payment_method_id text NOT NULL,
    name text,
    kind text,
    is_inferred boolean DEFAULT false NOT NULL,
    is_deleted boolean DEFAULT false NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_payment_method IS 'Payment methods, as they are now.';

COMMENT ON COLUMN dwh.dim_payment_method.payment_method_key IS 'Key; 0 is the unknown payment_method';

COMMENT ON COLUMN dwh.dim_payment_method.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN dwh.dim_payment_method.payment_method_id IS 'Natural key: the payment_method''s key in the source';

COMMENT ON COLUMN dwh.dim_payment_method.name IS 'Name of the payment method';

COMMENT ON COLUMN dwh.dim_payment_method.kind IS 'Kind of payment, as card, transfer or wallet';

COMMENT ON COLUMN dwh.dim_payment_method.is_inferred IS 'Whether a fact named this member before its source did';

COMMENT ON COLUMN dwh.dim_payment_method.is_deleted IS 'Whether it is gone from the source';

COMMENT ON COLUMN dwh.dim_payment_method.run_id IS 'Run that wrote this row last';

ALTER TABLE dwh.dim_payment_method ALTER COLUMN payment_method_key ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME dwh.dim_payment_method_payment_method_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE dwh.dim_product (
    product_key bigint NOT NULL,
    source_system text NOT NULL,
    product_id text NOT NULL,
    company_id text,
    name text,
    category text,
    brand text,
    price_default_amount numeric(18,4),
    price_amount numeric(18,4),
    currency text,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone DEFAULT '2100-01-01 00:00:00+00'::timestamp with time zone NOT NULL,
    is_current boolean DEFAULT true NOT NULL,
    is_inferred boolean DEFAULT false NOT NULL,
    row_hash bigint NOT NULL,
    run_id bigint NOT NULL,
    closed_by_run_id bigint,
    CONSTRAINT ck_dim_product_is_current CHECK ((is_current = (valid_to = '2100-01-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT ck_dim_product_valid CHECK ((valid_from < valid_to))
);

COMMENT ON TABLE dwh.dim_product IS 'Products: one row per version, with category and brand by name.';

COMMENT ON COLUMN dwh.dim_product.product_key IS 'Key of this version; 0 is the unknown product';

COMMENT ON COLUMN dwh.dim_product.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN dwh.dim_product.product_id IS 'Natural key: the product''s key in the source';

COMMENT ON COLUMN dwh.dim_product.company_id IS 'Natural key of the selling company';

COMMENT ON COLUMN dwh.dim_product.name IS 'Name of the product';

COMMENT ON COLUMN dwh.dim_product.category IS 'Name of its category';

COMMENT ON COLUMN dwh.dim_product.brand IS 'Name of its brand';

COMMENT ON COLUMN dwh.dim_product.price_default_amount IS 'Base price of the seller';

COMMENT ON COLUMN dwh.dim_product.price_amount IS 'Price that the platform charges';

COMMENT ON COLUMN dwh.dim_product.currency IS 'Currency of the prices, ISO 4217';

COMMENT ON COLUMN dwh.dim_product.valid_from IS 'First moment at which this version holds (UTC); 1900-01-01: since ever';

COMMENT ON COLUMN dwh.dim_product.valid_to IS 'First moment at which it no longer holds (UTC)';

COMMENT ON COLUMN dwh.dim_product.is_current IS 'Whether it is the version of now';

COMMENT ON COLUMN dwh.dim_product.is_inferred IS 'Whether a fact named this member before its source did';

COMMENT ON COLUMN dwh.dim_product.row_hash IS 'Hash of the tracked attributes';

COMMENT ON COLUMN dwh.dim_product.run_id IS 'Run that wrote this version last';

COMMENT ON COLUMN dwh.dim_product.closed_by_run_id IS 'Run that ended this version';

ALTER TABLE dwh.dim_product ALTER COLUMN product_key ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME dwh.dim_product_product_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE dwh.dim_promotion (
    promotion_key bigint NOT NULL,
    source_system text NOT NULL,
    promotion_id text NOT NULL,
    name text,
    discount_share numeric(6,4),
    starts_at timestamp with time zone,
    ends_at timestamp with time zone,
    is_inferred boolean DEFAULT false NOT NULL,
    is_deleted boolean DEFAULT false NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_promotion IS 'Promotions, as they are now.';

COMMENT ON COLUMN dwh.dim_promotion.promotion_key IS 'Key; 0 is the unknown promotion';

COMMENT ON COLUMN dwh.dim_promotion.source_system IS 'Source system that the natural key belongs to';

COMMENT ON COLUMN dwh.dim_promotion.promotion_id IS 'Natural key: the promotion''s key in the source';

COMMENT ON COLUMN dwh.dim_promotion.name IS 'Name of the promotion';

COMMENT ON COLUMN dwh.dim_promotion.discount_share IS 'Share of the price that it takes off, 0 to 1';

COMMENT ON COLUMN dwh.dim_promotion.starts_at IS 'First moment it holds (UTC)';

COMMENT ON COLUMN dwh.dim_promotion.ends_at IS 'First moment it no longer holds (UTC)';

COMMENT ON COLUMN dwh.dim_promotion.is_inferred IS 'Whether a fact named this member before its source did';

COMMENT ON COLUMN dwh.dim_promotion.is_deleted IS 'Whether it is gone from the source';

COMMENT ON COLUMN dwh.dim_promotion.run_id IS 'Run that wrote this row last';

ALTER TABLE dwh.dim_promotion ALTER COLUMN promotion_key ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME dwh.dim_promotion_promotion_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE dwh.dim_referer (
    referer_key integer NOT NULL,
    referer text NOT NULL,
    traffic_source_key smallint NOT NULL,
    text_hash uuid NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_referer IS 'Referers, each with its traffic source; key 0 where the log has none.';

COMMENT ON COLUMN dwh.dim_referer.referer_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN dwh.dim_referer.referer IS 'Referer as logged';

COMMENT ON COLUMN dwh.dim_referer.traffic_source_key IS 'Its site: dim_traffic_source';

COMMENT ON COLUMN dwh.dim_referer.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN dwh.dim_referer.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.dim_request (
    request_key integer NOT NULL,
    request text NOT NULL,
    method text,
    path text,
    action text NOT NULL,
    product_id text,
    traffic_source_key smallint,
    text_hash uuid NOT NULL,
    run_id bigint NOT NULL,
    CONSTRAINT ck_dim_request_action CHECK ((action = ANY (ARRAY['view'::text, 'search'::text, 'add_to_cart'::text, 'checkout'::text, 'login'::text, 'other'::text])))
);

COMMENT ON TABLE dwh.dim_request IS 'Request lines, and what they mean by warehouse/weblogs/site.toml; key 0 where the log has none.';

COMMENT ON COLUMN dwh.dim_request.request_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN dwh.dim_request.request IS 'Request line as logged: method, target, protocol; bytes that are no text are escaped';

COMMENT ON COLUMN dwh.dim_request.method IS 'HTTP method';

COMMENT ON COLUMN dwh.dim_request.path IS 'Path, without the query';

COMMENT ON COLUMN dwh.dim_request.action IS 'view, search, add_to_cart, checkout, login or other';

COMMENT ON COLUMN dwh.dim_request.product_id IS 'Product that it is about: natural key in dim_product';

COMMENT ON COLUMN dwh.dim_request.traffic_source_key IS 'Campaign by utm_source: dim_traffic_source; empty where it names none';

COMMENT ON COLUMN dwh.dim_request.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN dwh.dim_request.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.dim_traffic_source (
    traffic_source_key smallint NOT NULL,
    name text NOT NULL,
    medium text NOT NULL,
    run_id bigint NOT NULL,
    CONSTRAINT ck_dim_traffic_source_medium CHECK ((medium = ANY (ARRAY['direct'::text, 'campaign'::text, 'search'::text, 'social'::text, 'internal'::text, 'referral'::text])))
);

COMMENT ON TABLE dwh.dim_traffic_source IS 'Where visits come from: utm_source of the request, else the site of the referer.';

COMMENT ON COLUMN dwh.dim_traffic_source.traffic_source_key IS 'Key; 0 is direct: neither campaign nor referer';

COMMENT ON COLUMN dwh.dim_traffic_source.name IS 'utm_source, or the referring site''s name';

COMMENT ON COLUMN dwh.dim_traffic_source.medium IS 'direct, campaign, search, social, internal or referral';

COMMENT ON COLUMN dwh.dim_traffic_source.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.dim_user_agent (
    user_agent_key integer NOT NULL,
    user_agent text NOT NULL,
    device_key smallint NOT NULL,
    text_hash uuid NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_user_agent IS 'User agents, each with its device; key 0 where the log has none.';

COMMENT ON COLUMN dwh.dim_user_agent.user_agent_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN dwh.dim_user_agent.user_agent IS 'User agent as logged';

COMMENT ON COLUMN dwh.dim_user_agent.device_key IS 'Its device: dim_device';

COMMENT ON COLUMN dwh.dim_user_agent.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN dwh.dim_user_agent.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.dim_web_user (
    web_user_key integer NOT NULL,
    user_name text NOT NULL,
    text_hash uuid NOT NULL,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.dim_web_user IS 'Users who were logged in, by the name in the log; key 0 is a visitor who was not.';

COMMENT ON COLUMN dwh.dim_web_user.web_user_key IS 'Key; 0 where the log has ''-'' or nothing';

COMMENT ON COLUMN dwh.dim_web_user.user_name IS 'Name as logged: username in dim_customer (personal data)';

COMMENT ON COLUMN dwh.dim_web_user.text_hash IS 'MD5 of the text, by which it is found again';

COMMENT ON COLUMN dwh.dim_web_user.run_id IS 'Run that added the row; 0: the migration';

CREATE TABLE dwh.fact_order_item (
    order_id text NOT NULL,
    line_id text NOT NULL,
    source_system text NOT NULL,
    ordered_at timestamp with time zone NOT NULL,
    ordered_date_key integer NOT NULL,
    customer_key bigint NOT NULL,
    product_key bigint NOT NULL,
    company_key bigint NOT NULL,
    promotion_key bigint NOT NULL,
    payment_method_key bigint NOT NULL,
    distribution_center_key bigint NOT NULL,
    quantity numeric(18,3) NOT NULL,
    base_unit_price_amount numeric(18,4),
    list_unit_price_amount numeric(18,4) NOT NULL,
    net_unit_price_amount numeric(18,4) NOT NULL,
    gross_amount numeric(18,4) NOT NULL,
    discount_amount numeric(18,4) NOT NULL,
    net_amount numeric(18,4) NOT NULL,
    profit_amount numeric(18,4),
    currency text,
    status text NOT NULL,
    returned_at timestamp with time zone,
    returned_date_key integer NOT NULL,
    recorded_at timestamp with time zone,
    run_id bigint NOT NULL
);

COMMENT ON TABLE dwh.fact_order_item IS 'One row per order line in its last state, with the dimension versions that were valid when it was ordered.';

COMMENT ON COLUMN dwh.fact_order_item.order_id IS 'Natural key: the order''s key in the source';

COMMENT ON COLUMN dwh.fact_order_item.line_id IS 'Natural key: the line within the order';

COMMENT ON COLUMN dwh.fact_order_item.source_system IS 'Source system that the natural keys belong to';

COMMENT ON COLUMN dwh.fact_order_item.ordered_at IS 'When it was ordered (UTC)';

COMMENT ON COLUMN dwh.fact_order_item.ordered_date_key IS 'Day it was ordered: dim_date';

COMMENT ON COLUMN dwh.fact_order_item.customer_key IS 'Who bought: version of dim_customer valid when ordered';

COMMENT ON COLUMN dwh.fact_order_item.product_key IS 'What was bought: version of dim_product valid when ordered';

COMMENT ON COLUMN dwh.fact_order_item.company_key IS 'Who sold: version of dim_company valid when ordered';

COMMENT ON COLUMN dwh.fact_order_item.promotion_key IS 'Promotion: dim_promotion; 0 where there was none';

COMMENT ON COLUMN dwh.fact_order_item.payment_method_key IS 'How it was paid: dim_payment_method';

COMMENT ON COLUMN dwh.fact_order_item.distribution_center_key IS 'Where it was sent from: dim_distribution_center';

COMMENT ON COLUMN dwh.fact_order_item.quantity IS 'Units ordered';

COMMENT ON COLUMN dwh.fact_order_item.base_unit_price_amount IS 'Seller''s base price of a unit; empty where the source has none';

COMMENT ON COLUMN dwh.fact_order_item.list_unit_price_amount IS 'Price of a unit before discount';

COMMENT ON COLUMN dwh.fact_order_item.net_unit_price_amount IS 'Price of a unit after discount';

COMMENT ON COLUMN dwh.fact_order_item.gross_amount IS 'Quantity times list price';

COMMENT ON COLUMN dwh.fact_order_item.discount_amount IS 'Discount on the line';

COMMENT ON COLUMN dwh.fact_order_item.net_amount IS 'Gross less discount: the sale';

COMMENT ON COLUMN dwh.fact_order_item.profit_amount IS 'Net less quantity times base price; empty where there is no base price';

COMMENT ON COLUMN dwh.fact_order_item.currency IS 'Currency of all amounts, ISO 4217';

COMMENT ON COLUMN dwh.fact_order_item.status IS 'pending, processing, shipped, complete, cancelled or returned';

COMMENT ON COLUMN dwh.fact_order_item.returned_at IS 'When it was returned (UTC)';

COMMENT ON COLUMN dwh.fact_order_item.returned_date_key IS 'Day it was returned: dim_date; 0 where it was not';

COMMENT ON COLUMN dwh.fact_order_item.recorded_at IS 'When the source recorded its last change (UTC)';

COMMENT ON COLUMN dwh.fact_order_item.run_id IS 'Run that wrote this row last';

CREATE TABLE dwh.fact_weblog (
    requested_at timestamp with time zone NOT NULL,
    response_bytes bigint NOT NULL,
    run_id bigint NOT NULL,
    file_id integer NOT NULL,
    line_number integer NOT NULL,
    request_key integer NOT NULL,
    user_agent_key integer NOT NULL,
    referer_key integer NOT NULL,
    web_user_key integer NOT NULL,
    status_code smallint NOT NULL,
    device_key smallint NOT NULL,
    traffic_source_key smallint NOT NULL,
    country text NOT NULL,
    ip_address inet NOT NULL
)
PARTITION BY LIST (country);

COMMENT ON TABLE dwh.fact_weblog IS 'One row per request in an access log. Partitioned by country; a country''s partition is made when it first appears. No line can be in it twice: audit.file_part bars that, at a hundredth of what a key per row costs.';

COMMENT ON COLUMN dwh.fact_weblog.requested_at IS 'When the request was made (UTC)';

COMMENT ON COLUMN dwh.fact_weblog.response_bytes IS 'Size of the response in bytes; 0 where the log has ''-''';

COMMENT ON COLUMN dwh.fact_weblog.run_id IS 'Run that loaded the row';

COMMENT ON COLUMN dwh.fact_weblog.file_id IS 'Natural key, with line_number: file of the line, in audit.file';

COMMENT ON COLUMN dwh.fact_weblog.line_number IS 'Natural key, with file_id: line in that file, from 1';

COMMENT ON COLUMN dwh.fact_weblog.request_key IS 'Request line, action and product: dim_request';

COMMENT ON COLUMN dwh.fact_weblog.user_agent_key IS 'User agent: dim_user_agent';

COMMENT ON COLUMN dwh.fact_weblog.referer_key IS 'Referer: dim_referer';

COMMENT ON COLUMN dwh.fact_weblog.web_user_key IS 'User who was logged in: dim_web_user; 0 where nobody was';

COMMENT ON COLUMN dwh.fact_weblog.status_code IS 'HTTP status of the response';

COMMENT ON COLUMN dwh.fact_weblog.device_key IS 'Device: dim_device';

COMMENT ON COLUMN dwh.fact_weblog.traffic_source_key IS 'Campaign or referring site: dim_traffic_source; 0 is direct';

COMMENT ON COLUMN dwh.fact_weblog.country IS 'Country of the address: dim_country; ZZ is unknown';

COMMENT ON COLUMN dwh.fact_weblog.ip_address IS 'Address that the request came from (personal data)';

CREATE VIEW mart.capture_proof AS
 SELECT DISTINCT ON (source, table_name) source,
    table_name,
    verdict,
    rows_source,
    rows_mirror,
    chunks,
    chunks_differing,
    seconds,
    proved_at,
    run_id
   FROM audit.proof proof
  WHERE (chunks > 0)
  ORDER BY source, table_name, proof_id DESC;

COMMENT ON VIEW mart.capture_proof IS 'Whether each captured table and its mirror held the same rows when last compared.';

COMMENT ON COLUMN mart.capture_proof.source IS 'Source system';

COMMENT ON COLUMN mart.capture_proof.table_name IS 'Table in the source';

COMMENT ON COLUMN mart.capture_proof.verdict IS 'equal or different';

COMMENT ON COLUMN mart.capture_proof.rows_source IS 'Rows in the source at the run''s snapshot';

COMMENT ON COLUMN mart.capture_proof.rows_mirror IS 'Rows in the mirror after the run';

COMMENT ON COLUMN mart.capture_proof.chunks IS 'Chunks that were compared';

COMMENT ON COLUMN mart.capture_proof.chunks_differing IS 'Chunks in which they differ';

COMMENT ON COLUMN mart.capture_proof.seconds IS 'Time that the comparison took, in seconds';

COMMENT ON COLUMN mart.capture_proof.proved_at IS 'When they were compared (UTC)';

COMMENT ON COLUMN mart.capture_proof.run_id IS 'Run that was proved';

CREATE VIEW mart.countries_by_logged_users AS
 SELECT (row_number() OVER (ORDER BY counted.user_count DESC, counted.request_count DESC, counted.country))::integer AS country_rank,
    counted.country,
    country.name AS country_name,
    counted.user_count,
    counted.request_count
   FROM (dwh.agg_weblog_country counted
     LEFT JOIN dwh.dim_country country ON ((counted.country = country.country)))
  ORDER BY ((row_number() OVER (ORDER BY counted.user_count DESC, counted.request_count DESC, counted.country))::integer);

COMMENT ON VIEW mart.countries_by_logged_users IS 'Countries by the number of users who log in from there.';

COMMENT ON COLUMN mart.countries_by_logged_users.country_rank IS 'Rank, from 1';

COMMENT ON COLUMN mart.countries_by_logged_users.country IS 'Country code, ISO 3166-1 alpha-2; ZZ is unknown';

COMMENT ON COLUMN mart.countries_by_logged_users.country_name IS 'English short name of the country';

COMMENT ON COLUMN mart.countries_by_logged_users.user_count IS 'Distinct logged users, exact';

COMMENT ON COLUMN mart.countries_by_logged_users.request_count IS 'Requests, of users and visitors';

CREATE VIEW mart.customer_masked AS
 SELECT source_system,
    customer_id,
    ("left"(name, 1) || '***'::text) AS name_masked,
    regexp_replace(email, '^.*@'::text, '***@'::text) AS email_masked,
    ('***'::text || "right"(document_number, 2)) AS document_number_masked,
    (date_trunc('year'::text, (birth_date)::timestamp without time zone))::date AS birth_year_date,
    country,
    state,
    loyalty_tier,
    acquisition_source
   FROM dwh.dim_customer customer
  WHERE (is_current AND (customer_key <> 0));

COMMENT ON VIEW mart.customer_masked IS 'Customers as they are now, without what tells who they are.';

COMMENT ON COLUMN mart.customer_masked.source_system IS 'Source system that the customer comes from';

COMMENT ON COLUMN mart.customer_masked.customer_id IS 'Natural key of the customer';

COMMENT ON COLUMN mart.customer_masked.name_masked IS 'First letter of the name';

COMMENT ON COLUMN mart.customer_masked.email_masked IS 'Domain of the e-mail address';

COMMENT ON COLUMN mart.customer_masked.document_number_masked IS 'Last two characters of the document number';

COMMENT ON COLUMN mart.customer_masked.birth_year_date IS 'First day of the year of birth';

COMMENT ON COLUMN mart.customer_masked.country IS 'Country, ISO 3166-1 alpha-2 where the source has codes';

COMMENT ON COLUMN mart.customer_masked.state IS 'State, province or region';

COMMENT ON COLUMN mart.customer_masked.loyalty_tier IS 'Tier in the loyalty programme';

COMMENT ON COLUMN mart.customer_masked.acquisition_source IS 'Channel that the customer came by';

CREATE VIEW mart.data_quality AS
 WITH judged AS (
         SELECT result.source,
            result.dataset,
            result.check_name,
            result.check_type,
            result.column_name,
            result.level,
            result.outcome,
            result.measured,
            result.threshold,
            result.rows_checked,
            result.message,
            result.checked_at,
            result.run_id,
            row_number() OVER check_history AS recency,
            max(result.checked_at) FILTER (WHERE (result.outcome = ANY (ARRAY['failed'::text, 'warned'::text]))) OVER (PARTITION BY result.source, result.dataset, result.check_name, result.column_name) AS last_found_at
           FROM audit.check_result result
          WINDOW check_history AS (PARTITION BY result.source, result.dataset, result.check_name, result.column_name ORDER BY result.check_result_id DESC)
        )
 SELECT source,
    dataset,
    check_name,
    check_type,
    column_name,
    level,
    outcome,
    measured,
    threshold,
    rows_checked,
    message,
    checked_at,
    last_found_at,
    run_id
   FROM judged
  WHERE (recency = 1);

COMMENT ON VIEW mart.data_quality IS 'The last verdict of each check of the data contracts.';

COMMENT ON COLUMN mart.data_quality.source IS 'Source system or feed';

COMMENT ON COLUMN mart.data_quality.dataset IS 'What was checked, as order_item';

COMMENT ON COLUMN mart.data_quality.check_name IS 'Name of the check in the contract';

COMMENT ON COLUMN mart.data_quality.check_type IS 'Kind of check, as missing, failed_rows or duplicate';

COMMENT ON COLUMN mart.data_quality.column_name IS 'Column, for checks of one column';

COMMENT ON COLUMN mart.data_quality.level IS 'quarantine (moves rows), fail (stops the run) or warn';

COMMENT ON COLUMN mart.data_quality.outcome IS 'passed, failed, warned, not_evaluated or not_applicable';

COMMENT ON COLUMN mart.data_quality.measured IS 'What was measured, mostly the number of failing rows in the batch';

COMMENT ON COLUMN mart.data_quality.threshold IS 'What was demanded';

COMMENT ON COLUMN mart.data_quality.rows_checked IS 'Rows in the batch';

COMMENT ON COLUMN mart.data_quality.message IS 'What else there is to say';

COMMENT ON COLUMN mart.data_quality.checked_at IS 'When it was checked (UTC)';

COMMENT ON COLUMN mart.data_quality.last_found_at IS 'When the check last failed or warned (UTC)';

COMMENT ON COLUMN mart.data_quality.run_id IS 'Run that was checked';

CREATE VIEW mart.data_quality_history AS
 SELECT result.check_result_id,
    result.run_id,
    run.flow,
    result.source,
    result.dataset,
    result.check_name,
    result.column_name,
    result.level,
    result.outcome,
    result.measured,
    result.rows_checked,
    (result.measured / (NULLIF(result.rows_checked, 0))::numeric) AS measured_share,
    result.checked_at
   FROM (audit.check_result result
     JOIN audit.run run ON ((result.run_id = run.run_id)));

COMMENT ON VIEW mart.data_quality_history IS 'What each check of the data contracts has found, run by run.';

COMMENT ON COLUMN mart.data_quality_history.check_result_id IS 'Verdict, in audit.check_result';

COMMENT ON COLUMN mart.data_quality_history.run_id IS 'Run whose batch was checked';

COMMENT ON COLUMN mart.data_quality_history.flow IS 'Flow of that run';

COMMENT ON COLUMN mart.data_quality_history.source IS 'Source system or feed';

COMMENT ON COLUMN mart.data_quality_history.dataset IS 'What was checked, as order_item';

COMMENT ON COLUMN mart.data_quality_history.check_name IS 'Name of the check in the contract';

COMMENT ON COLUMN mart.data_quality_history.column_name IS 'Column, for checks of one column';

COMMENT ON COLUMN mart.data_quality_history.level IS 'quarantine (moves rows), fail (stops the run) or warn';

COMMENT ON COLUMN mart.data_quality_history.outcome IS 'passed, failed, warned, not_evaluated or not_applicable';

COMMENT ON COLUMN mart.data_quality_history.measured IS 'What was measured, mostly the number of failing rows in the batch';

COMMENT ON COLUMN mart.data_quality_history.rows_checked IS 'Rows in the batch';

COMMENT ON COLUMN mart.data_quality_history.measured_share IS 'measured as a share of the batch';

COMMENT ON COLUMN mart.data_quality_history.checked_at IS 'When it was checked (UTC)';

CREATE VIEW mart.interactions_by_day AS
 SELECT request_date,
    action,
    request_count AS interaction_count
   FROM dwh.agg_weblog_day counted;

COMMENT ON VIEW mart.interactions_by_day IS 'Requests per day and action.';

COMMENT ON COLUMN mart.interactions_by_day.request_date IS 'Day (UTC)';

COMMENT ON COLUMN mart.interactions_by_day.action IS 'view, search, add_to_cart, checkout, login or other';

COMMENT ON COLUMN mart.interactions_by_day.interaction_count IS 'Requests';

CREATE VIEW mart.job_run AS
 SELECT run.run_id,
    run.flow,
    run.deployment,
    run.launched_by,
    run.status,
    run.started_at,
    run.ended_at,
    (EXTRACT(epoch FROM (run.ended_at - run.started_at)))::double precision AS duration_seconds,
    (COALESCE(loaded.rows_read, (0)::numeric))::bigint AS rows_read,
    (COALESCE(loaded.rows_inserted, (0)::numeric))::bigint AS rows_inserted,
    (COALESCE(loaded.rows_updated, (0)::numeric))::bigint AS rows_updated,
    (COALESCE(loaded.rows_closed, (0)::numeric))::bigint AS rows_closed,
    (COALESCE(loaded.rows_deleted, (0)::numeric))::bigint AS rows_deleted,
    (COALESCE(loaded.rows_quarantined, (0)::numeric))::bigint AS rows_quarantined,
    (COALESCE(loaded.rows_cursor_missed, (0)::numeric))::bigint AS rows_cursor_missed,
    run.error AS message,
    run.advice,
    run.prefect_run_id,
    run.code_version,
    run.parent_run_id,
    run.resumes_run_id
   FROM (audit.run run
     LEFT JOIN LATERAL ( SELECT sum(load.rows_read) FILTER (WHERE ((load.table_name ~~ 'raw.%'::text) OR ((load.table_name ~~ 'dwh.%'::text) AND (NOT (EXISTS ( SELECT 1
                   FROM audit.load mirrored
                  WHERE ((mirrored.run_id = load.run_id) AND (mirrored.source = load.source) AND (mirrored.table_name ~~ 'raw.%'::text)))))))) AS rows_read,
            sum(load.rows_inserted) FILTER (WHERE (load.table_name ~~ 'dwh.%'::text)) AS rows_inserted,
            sum(load.rows_updated) FILTER (WHERE (load.table_name ~~ 'dwh.%'::text)) AS rows_updated,
            sum(load.rows_closed) FILTER (WHERE (load.table_name ~~ 'dwh.%'::text)) AS rows_closed,
            sum(load.rows_deleted) FILTER (WHERE (load.table_name ~~ 'dwh.%'::text)) AS rows_deleted,
            sum(load.rows_quarantined) AS rows_quarantined,
            sum(load.rows_cursor_missed) AS rows_cursor_missed
           FROM (audit.load load
             JOIN audit.run part ON ((load.run_id = part.run_id)))
          WHERE ((run.run_id = part.run_id) OR (run.run_id = part.parent_run_id))) loaded ON (true));

COMMENT ON VIEW mart.job_run IS 'One row per run of a flow, with what it did to the star; the rows of its steps are its own.';

COMMENT ON COLUMN mart.job_run.run_id IS 'Run';

COMMENT ON COLUMN mart.job_run.flow IS 'Flow that ran, as ingest-shop';

COMMENT ON COLUMN mart.job_run.deployment IS 'Deployment that started it, if one did';

COMMENT ON COLUMN mart.job_run.launched_by IS 'User or service that started it';

COMMENT ON COLUMN mart.job_run.status IS 'running, succeeded, failed, stopped (by a gate or brake), crashed, skipped (another run held the lock), undone or dry run';

COMMENT ON COLUMN mart.job_run.started_at IS 'When it started (UTC)';

COMMENT ON COLUMN mart.job_run.ended_at IS 'When it ended (UTC); empty while it runs';

COMMENT ON COLUMN mart.job_run.duration_seconds IS 'How long it took; empty while it runs';

COMMENT ON COLUMN mart.job_run.rows_read IS 'Rows and lines that it and its steps read from sources';

COMMENT ON COLUMN mart.job_run.rows_inserted IS 'Rows that it and its steps added to dimensions and facts, new versions included';

COMMENT ON COLUMN mart.job_run.rows_updated IS 'Rows of dimensions and facts that it and its steps changed in place';

COMMENT ON COLUMN mart.job_run.rows_closed IS 'Versions that it and its steps ended';

COMMENT ON COLUMN mart.job_run.rows_deleted IS 'Rows that vanished';

COMMENT ON COLUMN mart.job_run.rows_quarantined IS 'Rows and lines that it and its steps put into quarantine';

COMMENT ON COLUMN mart.job_run.rows_cursor_missed IS 'Changed rows that a plain updated_at cursor would have lost';

COMMENT ON COLUMN mart.job_run.message IS 'What went wrong, in a sentence';

COMMENT ON COLUMN mart.job_run.advice IS 'What to do about it';

COMMENT ON COLUMN mart.job_run.prefect_run_id IS 'Flow run in Prefect, if there is one';

COMMENT ON COLUMN mart.job_run.code_version IS 'Commit of the code that ran';

COMMENT ON COLUMN mart.job_run.parent_run_id IS 'Run that this one is a step of, if it is one';

COMMENT ON COLUMN mart.job_run.resumes_run_id IS 'Run that this one goes on from, if it does: what had succeeded there is not done again';

CREATE MATERIALIZED VIEW mart.sales_by_month AS
 WITH line AS NOT MATERIALIZED (
         SELECT fact.source_system,
            (date_trunc('month'::text, (fact.ordered_at AT TIME ZONE 'UTC'::text)))::date AS month,
            COALESCE(fact.currency, 'XXX'::text) AS currency,
            fact.order_id,
            fact.quantity,
            fact.gross_amount,
            fact.discount_amount,
            fact.net_amount,
            fact.profit_amount,
            (fact.status = 'cancelled'::text) AS is_cancelled,
            (fact.status = 'returned'::text) AS is_returned
           FROM dwh.fact_order_item fact
        ), summed AS (
         SELECT line.source_system,
            line.month,
            line.currency,
            count(*) FILTER (WHERE (NOT line.is_cancelled)) AS line_count,
            COALESCE(sum(line.quantity) FILTER (WHERE (NOT line.is_cancelled)), (0)::numeric) AS unit_count,
            COALESCE(sum(line.gross_amount) FILTER (WHERE (NOT line.is_cancelled)), (0)::numeric) AS gross_amount,
            COALESCE(sum(line.discount_amount) FILTER (WHERE (NOT line.is_cancelled)), (0)::numeric) AS discount_amount,
            COALESCE(sum(line.net_amount) FILTER (WHERE (NOT line.is_cancelled)), (0)::numeric) AS net_amount,
            sum(line.profit_amount) FILTER (WHERE (NOT line.is_cancelled)) AS profit_amount,
            count(*) FILTER (WHERE line.is_returned) AS returned_line_count,
            COALESCE(sum(line.net_amount) FILTER (WHERE line.is_returned), (0)::numeric) AS returned_net_amount,
            sum(line.profit_amount) FILTER (WHERE line.is_returned) AS returned_profit_amount,
            count(*) FILTER (WHERE line.is_cancelled) AS cancelled_line_count,
            COALESCE(sum(line.net_amount) FILTER (WHERE line.is_cancelled), (0)::numeric) AS cancelled_net_amount
           FROM line
          GROUP BY line.source_system, line.month, line.currency
        ), sales_order AS (
         SELECT DISTINCT line.source_system,
            line.month,
            line.currency,
            line.order_id
           FROM line
          WHERE (NOT line.is_cancelled)
        ), counted AS (
         SELECT sales_order.source_system,
            sales_order.month,
            sales_order.currency,
            count(*) AS order_count
           FROM sales_order
          GROUP BY sales_order.source_system, sales_order.month, sales_order.currency
        )
 SELECT summed.source_system,
    summed.month,
    summed.currency,
    COALESCE(counted.order_count, (0)::bigint) AS order_count,
    summed.line_count,
    summed.unit_count,
    summed.gross_amount,
    summed.discount_amount,
    summed.net_amount,
    summed.profit_amount,
    summed.returned_line_count,
    summed.returned_net_amount,
    summed.returned_profit_amount,
    summed.cancelled_line_count,
    summed.cancelled_net_amount
   FROM (summed
     LEFT JOIN counted ON (((summed.source_system = counted.source_system) AND (summed.month = counted.month) AND (summed.currency = counted.currency))))
  WITH DATA;

COMMENT ON MATERIALIZED VIEW mart.sales_by_month IS 'Sales per source, month of the order and currency, over all time. A sale is a line that was not cancelled; a returned line was sold, stays in its month and is shown beside it; as last refreshed.';

COMMENT ON COLUMN mart.sales_by_month.source_system IS 'Source system of the orders';

COMMENT ON COLUMN mart.sales_by_month.month IS 'First day of the month of the order (UTC)';

COMMENT ON COLUMN mart.sales_by_month.currency IS 'Currency of all amounts, ISO 4217; XXX where the source names none';

COMMENT ON COLUMN mart.sales_by_month.order_count IS 'Orders with at least one line in this currency that was not cancelled';

COMMENT ON COLUMN mart.sales_by_month.line_count IS 'Lines that were not cancelled';

COMMENT ON COLUMN mart.sales_by_month.unit_count IS 'Units on these lines';

COMMENT ON COLUMN mart.sales_by_month.gross_amount IS 'Sales before discount: these lines, returned ones included';

COMMENT ON COLUMN mart.sales_by_month.discount_amount IS 'Discount on these lines';

COMMENT ON COLUMN mart.sales_by_month.net_amount IS 'Sales after discount: these lines, returned ones included';

COMMENT ON COLUMN mart.sales_by_month.profit_amount IS 'Net less base price on these lines; empty where the source has no base prices';

COMMENT ON COLUMN mart.sales_by_month.returned_line_count IS 'Of these lines, how many have come back by now, whenever that was';

COMMENT ON COLUMN mart.sales_by_month.returned_net_amount IS 'Of the net amount, what belongs to lines that have come back';

COMMENT ON COLUMN mart.sales_by_month.returned_profit_amount IS 'Of the profit, what belongs to lines that have come back';

COMMENT ON COLUMN mart.sales_by_month.cancelled_line_count IS 'Lines that were cancelled: in none of the columns before';

COMMENT ON COLUMN mart.sales_by_month.cancelled_net_amount IS 'What the cancelled lines would have brought';

CREATE VIEW mart.monthly_sales AS
 WITH source AS (
         SELECT sales_1.source_system,
            max(sales_1.month) AS newest_month
           FROM mart.sales_by_month sales_1
          WHERE (sales_1.month <= ((now() AT TIME ZONE 'UTC'::text))::date)
          GROUP BY sales_1.source_system
        ), currency AS (
         SELECT source.source_system,
            source.newest_month,
            sales_1.currency
           FROM (source
             JOIN mart.sales_by_month sales_1 ON (((source.source_system = sales_1.source_system) AND (sales_1.month > (source.newest_month - '1 year'::interval)) AND (sales_1.month <= source.newest_month))))
          GROUP BY source.source_system, source.newest_month, sales_1.currency
        ), calendar AS (
         SELECT currency.source_system,
            currency.newest_month,
            currency.currency,
            ((currency.newest_month - make_interval(months => months_ago.months_ago)))::date AS month
           FROM (currency
             CROSS JOIN generate_series(0, 11) months_ago(months_ago))
        )
 SELECT calendar.source_system,
    calendar.month,
    calendar.currency,
    COALESCE(sales.order_count, (0)::bigint) AS order_count,
    COALESCE(sales.line_count, (0)::bigint) AS line_count,
    COALESCE(sales.unit_count, (0)::numeric) AS unit_count,
    COALESCE(sales.gross_amount, (0)::numeric) AS gross_amount,
    COALESCE(sales.discount_amount, (0)::numeric) AS discount_amount,
    COALESCE(sales.net_amount, (0)::numeric) AS net_amount,
    sales.profit_amount,
    COALESCE(sales.returned_line_count, (0)::bigint) AS returned_line_count,
    COALESCE(sales.returned_net_amount, (0)::numeric) AS returned_net_amount,
    COALESCE(sales.cancelled_line_count, (0)::bigint) AS cancelled_line_count,
    COALESCE(sales.cancelled_net_amount, (0)::numeric) AS cancelled_net_amount,
    calendar.newest_month
   FROM (calendar
     LEFT JOIN mart.sales_by_month sales ON (((calendar.source_system = sales.source_system) AND (calendar.month = sales.month) AND (calendar.currency = sales.currency))))
  ORDER BY calendar.source_system, calendar.currency, calendar.month;

COMMENT ON VIEW mart.monthly_sales IS 'Monthly sales of the last year: the twelve months up to the newest one in which the source sold, which is not this month where the warehouse was not fed; months without sales have zeros.';

COMMENT ON COLUMN mart.monthly_sales.source_system IS 'Source system of the orders';

COMMENT ON COLUMN mart.monthly_sales.month IS 'First day of the month of the order (UTC)';

COMMENT ON COLUMN mart.monthly_sales.currency IS 'Currency of all amounts, ISO 4217; XXX where the source names none';

COMMENT ON COLUMN mart.monthly_sales.order_count IS 'Orders with at least one line in this currency that was not cancelled';

COMMENT ON COLUMN mart.monthly_sales.line_count IS 'Lines that were not cancelled';

COMMENT ON COLUMN mart.monthly_sales.unit_count IS 'Units on these lines';

COMMENT ON COLUMN mart.monthly_sales.gross_amount IS 'Sales before discount: these lines, returned ones included';

COMMENT ON COLUMN mart.monthly_sales.discount_amount IS 'Discount on these lines';

COMMENT ON COLUMN mart.monthly_sales.net_amount IS 'Sales after discount: these lines, returned ones included';

COMMENT ON COLUMN mart.monthly_sales.profit_amount IS 'Net less base price on these lines; empty where the source has no base prices';

COMMENT ON COLUMN mart.monthly_sales.returned_line_count IS 'Of these lines, how many have come back by now, whenever that was';

COMMENT ON COLUMN mart.monthly_sales.returned_net_amount IS 'Of the net amount, what belongs to lines that have come back';

COMMENT ON COLUMN mart.monthly_sales.cancelled_line_count IS 'Lines that were cancelled: in none of the columns before';

COMMENT ON COLUMN mart.monthly_sales.cancelled_net_amount IS 'What the cancelled lines would have brought';

COMMENT ON COLUMN mart.monthly_sales.newest_month IS 'Newest month in which the source sold: the last of the twelve; it may still be running';

CREATE VIEW mart.most_viewed_products AS
 WITH country_with_most_users AS (
         SELECT counted.country
           FROM dwh.agg_weblog_country counted
          WHERE (counted.country <> 'ZZ'::text)
          ORDER BY counted.user_count DESC, counted.request_count DESC, counted.country
         LIMIT 1
        ), most_viewed AS (
         SELECT viewed.country,
            viewed.product_id,
            viewed.view_count
           FROM (dwh.agg_weblog_country_product viewed
             JOIN country_with_most_users chosen ON ((viewed.country = chosen.country)))
          ORDER BY viewed.view_count DESC, viewed.product_id
         LIMIT 5
        )
 SELECT (row_number() OVER (ORDER BY most_viewed.view_count DESC, most_viewed.product_id))::integer AS product_rank,
    most_viewed.product_id,
    product.name AS product_name,
    most_viewed.view_count,
    most_viewed.country,
    country.name AS country_name
   FROM ((most_viewed
     LEFT JOIN dwh.dim_country country ON ((most_viewed.country = country.country)))
     LEFT JOIN dwh.dim_product product ON (((most_viewed.product_id = product.product_id) AND (product.source_system = 'shop'::text) AND product.is_current)))
  ORDER BY ((row_number() OVER (ORDER BY most_viewed.view_count DESC, most_viewed.product_id))::integer);

COMMENT ON VIEW mart.most_viewed_products IS 'The five most viewed products in the country that most users log in from.';

COMMENT ON COLUMN mart.most_viewed_products.product_rank IS 'Rank, from 1';

COMMENT ON COLUMN mart.most_viewed_products.product_id IS 'Product';

COMMENT ON COLUMN mart.most_viewed_products.product_name IS 'Its name now, if the warehouse knows the product';

COMMENT ON COLUMN mart.most_viewed_products.view_count IS 'Requests with action view';

COMMENT ON COLUMN mart.most_viewed_products.country IS 'Country code, ISO 3166-1 alpha-2; ZZ is unknown';

COMMENT ON COLUMN mart.most_viewed_products.country_name IS 'English short name of the country';

CREATE VIEW mart.quarantine_by_rule AS
 SELECT entry.source,
    entry.entity,
    broken.rule,
    count(*) AS waiting_count,
    min(entry.quarantined_at) AS oldest_at,
    max(entry.quarantined_at) AS newest_at,
    max(entry.quarantine_id) AS newest_quarantine_id
   FROM (audit.quarantine entry
     CROSS JOIN LATERAL unnest(entry.rules) broken(rule))
  WHERE (entry.resolved_at IS NULL)
  GROUP BY entry.source, entry.entity, broken.rule;

COMMENT ON VIEW mart.quarantine_by_rule IS 'How many rows and lines wait in quarantine, per rule; a row that broke two counts in both.';

COMMENT ON COLUMN mart.quarantine_by_rule.source IS 'Source system or feed';

COMMENT ON COLUMN mart.quarantine_by_rule.entity IS 'What it would have become, as order_item or weblog';

COMMENT ON COLUMN mart.quarantine_by_rule.rule IS 'Rule that was broken';

COMMENT ON COLUMN mart.quarantine_by_rule.waiting_count IS 'Rows that wait';

COMMENT ON COLUMN mart.quarantine_by_rule.oldest_at IS 'When the oldest of them was put there (UTC)';

COMMENT ON COLUMN mart.quarantine_by_rule.newest_at IS 'When the newest of them was put there (UTC)';

COMMENT ON COLUMN mart.quarantine_by_rule.newest_quarantine_id IS 'The newest of them, in audit.quarantine';

CREATE VIEW mart.reconciliation AS
 SELECT DISTINCT ON (layer, source, table_name) layer,
    source,
    table_name,
    verdict,
    rows_source AS rows_expected,
    rows_mirror AS rows_found,
    rows_differing,
    rows_pending,
    rows_repaired,
    proved_at,
    run_id
   FROM audit.proof proof
  ORDER BY layer, source, table_name, proof_id DESC;

COMMENT ON VIEW mart.reconciliation IS 'The last verdict on each table of every layer: is it what the layer below makes of it?';

COMMENT ON COLUMN mart.reconciliation.layer IS 'mirror, star, weblog or mart';

COMMENT ON COLUMN mart.reconciliation.source IS 'Source system or feed';

COMMENT ON COLUMN mart.reconciliation.table_name IS 'Table in the source; of other layers, table with its schema';

COMMENT ON COLUMN mart.reconciliation.verdict IS 'equal, different, repaired, or behind (a stored mart not refreshed yet)';

COMMENT ON COLUMN mart.reconciliation.rows_expected IS 'Rows that there should be';

COMMENT ON COLUMN mart.reconciliation.rows_found IS 'Rows that there were';

COMMENT ON COLUMN mart.reconciliation.rows_differing IS 'Rows that were not as they should be';

COMMENT ON COLUMN mart.reconciliation.rows_pending IS 'Rows that the source has changed since the last run';

COMMENT ON COLUMN mart.reconciliation.rows_repaired IS 'Rows that were mended';

COMMENT ON COLUMN mart.reconciliation.proved_at IS 'When they were compared (UTC)';

COMMENT ON COLUMN mart.reconciliation.run_id IS 'Run that compared them';

CREATE VIEW mart.sales AS
 SELECT line.source_system,
    line.order_id,
    line.line_id,
    line.ordered_at,
    ((line.ordered_at AT TIME ZONE 'UTC'::text))::date AS ordered_date,
    (date_trunc('month'::text, (line.ordered_at AT TIME ZONE 'UTC'::text)))::date AS ordered_month,
    line.status,
    (line.status = 'cancelled'::text) AS is_cancelled,
    (line.status = 'returned'::text) AS is_returned,
    customer.customer_id,
    customer.name AS customer_name,
    customer.country AS customer_country,
    customer.state AS customer_state,
    customer.loyalty_tier,
    customer.acquisition_source,
    product.product_id,
    product.name AS product_name,
    product.category,
    product.brand,
    company.company_id,
    company.name AS company_name,
    company.country AS company_country,
    promotion.name AS promotion_name,
    payment_method.name AS payment_method_name,
    distribution_center.name AS distribution_center_name,
    line.quantity,
    line.base_unit_price_amount,
    line.list_unit_price_amount,
    line.net_unit_price_amount,
    line.gross_amount,
    line.discount_amount,
    line.net_amount,
    line.profit_amount,
    line.currency,
    line.returned_at,
    line.recorded_at,
    line.run_id
   FROM ((((((dwh.fact_order_item line
     LEFT JOIN dwh.dim_customer customer ON ((line.customer_key = customer.customer_key)))
     LEFT JOIN dwh.dim_product product ON ((line.product_key = product.product_key)))
     LEFT JOIN dwh.dim_company company ON ((line.company_key = company.company_key)))
     LEFT JOIN dwh.dim_promotion promotion ON ((line.promotion_key = promotion.promotion_key)))
     LEFT JOIN dwh.dim_payment_method payment_method ON ((line.payment_method_key = payment_method.payment_method_key)))
     LEFT JOIN dwh.dim_distribution_center distribution_center ON ((line.distribution_center_key = distribution_center.distribution_center_key)));

COMMENT ON VIEW mart.sales IS 'One row per order line, with the names that held when it was ordered in place of keys.';

COMMENT ON COLUMN mart.sales.source_system IS 'Source system of the order';

COMMENT ON COLUMN mart.sales.order_id IS 'Order: its key in the source';

COMMENT ON COLUMN mart.sales.line_id IS 'Line within the order';

COMMENT ON COLUMN mart.sales.ordered_at IS 'When it was ordered (UTC)';

COMMENT ON COLUMN mart.sales.ordered_date IS 'Day of the order (UTC)';

COMMENT ON COLUMN mart.sales.ordered_month IS 'First day of the month of the order (UTC)';

COMMENT ON COLUMN mart.sales.status IS 'pending, processing, shipped, complete, cancelled or returned';

COMMENT ON COLUMN mart.sales.is_cancelled IS 'Whether the line was cancelled, and so is no sale';

COMMENT ON COLUMN mart.sales.is_returned IS 'Whether the line was sold and came back';

COMMENT ON COLUMN mart.sales.customer_id IS 'Customer: key in the source';

COMMENT ON COLUMN mart.sales.customer_name IS 'Name that the customer had when ordering (personal data)';

COMMENT ON COLUMN mart.sales.customer_country IS 'Country that the customer lived in when ordering';

COMMENT ON COLUMN mart.sales.customer_state IS 'State that the customer lived in when ordering';

COMMENT ON COLUMN mart.sales.loyalty_tier IS 'Tier that the customer had when ordering';

COMMENT ON COLUMN mart.sales.acquisition_source IS 'Channel that the customer came by';

COMMENT ON COLUMN mart.sales.product_id IS 'Product: key in the source';

COMMENT ON COLUMN mart.sales.product_name IS 'Name of the product when ordered';

COMMENT ON COLUMN mart.sales.category IS 'Category of the product when ordered';

COMMENT ON COLUMN mart.sales.brand IS 'Brand of the product when ordered';

COMMENT ON COLUMN mart.sales.company_id IS 'Selling company: key in the source';

COMMENT ON COLUMN mart.sales.company_name IS 'Name of the selling company when ordered';

COMMENT ON COLUMN mart.sales.company_country IS 'Country of the selling company when ordered';

COMMENT ON COLUMN mart.sales.promotion_name IS 'Promotion; empty where there was none';

COMMENT ON COLUMN mart.sales.payment_method_name IS 'How it was paid';

COMMENT ON COLUMN mart.sales.distribution_center_name IS 'Where it was sent from';

COMMENT ON COLUMN mart.sales.quantity IS 'Units ordered';

COMMENT ON COLUMN mart.sales.base_unit_price_amount IS 'Seller''s base price of a unit; empty where the source has none';

COMMENT ON COLUMN mart.sales.list_unit_price_amount IS 'Price of a unit before discount';

COMMENT ON COLUMN mart.sales.net_unit_price_amount IS 'Price of a unit after discount';

COMMENT ON COLUMN mart.sales.gross_amount IS 'Quantity times list price: the sale before discount';

COMMENT ON COLUMN mart.sales.discount_amount IS 'Discount on the line';

COMMENT ON COLUMN mart.sales.net_amount IS 'Gross less discount: the sale';

COMMENT ON COLUMN mart.sales.profit_amount IS 'Net less quantity times base price; empty where there is no base price';

COMMENT ON COLUMN mart.sales.currency IS 'Currency of all amounts, ISO 4217';

COMMENT ON COLUMN mart.sales.returned_at IS 'When it was returned (UTC)';

COMMENT ON COLUMN mart.sales.recorded_at IS 'When the source recorded its last change (UTC)';

COMMENT ON COLUMN mart.sales.run_id IS 'Run that wrote the line last';

CREATE VIEW mart.sales_masked AS
 SELECT source_system,
    order_id,
    line_id,
    ordered_at,
    ordered_date,
    ordered_month,
    status,
    is_cancelled,
    is_returned,
    customer_id,
    ("left"(customer_name, 1) || '***'::text) AS customer_name_masked,
    customer_country,
    customer_state,
    loyalty_tier,
    acquisition_source,
    product_id,
    product_name,
    category,
    brand,
    company_id,
    company_name,
    company_country,
    promotion_name,
    payment_method_name,
    distribution_center_name,
    quantity,
    gross_amount,
    discount_amount,
    net_amount,
    profit_amount,
    currency,
    returned_at
   FROM mart.sales sales;

COMMENT ON VIEW mart.sales_masked IS 'Order lines as in mart.sales, without the customer''s name.';

COMMENT ON COLUMN mart.sales_masked.source_system IS 'Source system that the line comes from';

COMMENT ON COLUMN mart.sales_masked.order_id IS 'Natural key, with line_id: the order';

COMMENT ON COLUMN mart.sales_masked.line_id IS 'Natural key, with order_id: the line';

COMMENT ON COLUMN mart.sales_masked.ordered_at IS 'When it was ordered (UTC)';

COMMENT ON COLUMN mart.sales_masked.ordered_date IS 'Day of that';

COMMENT ON COLUMN mart.sales_masked.ordered_month IS 'First day of the month of that';

COMMENT ON COLUMN mart.sales_masked.status IS 'Last known state of the line';

COMMENT ON COLUMN mart.sales_masked.is_cancelled IS 'Whether it was cancelled';

COMMENT ON COLUMN mart.sales_masked.is_returned IS 'Whether it was returned';

COMMENT ON COLUMN mart.sales_masked.customer_id IS 'Natural key of the customer';

COMMENT ON COLUMN mart.sales_masked.customer_name_masked IS 'First letter of the customer''s name';

COMMENT ON COLUMN mart.sales_masked.customer_country IS 'Country that the customer had when ordering';

COMMENT ON COLUMN mart.sales_masked.customer_state IS 'State, province or region that the customer had when ordering';

COMMENT ON COLUMN mart.sales_masked.loyalty_tier IS 'Tier that the customer had when ordering';

COMMENT ON COLUMN mart.sales_masked.acquisition_source IS 'Channel that the customer came by';

COMMENT ON COLUMN mart.sales_masked.product_id IS 'Natural key of the product';

COMMENT ON COLUMN mart.sales_masked.product_name IS 'Name that the product had when ordered';

COMMENT ON COLUMN mart.sales_masked.category IS 'Category of the product';

COMMENT ON COLUMN mart.sales_masked.brand IS 'Brand of the product';

COMMENT ON COLUMN mart.sales_masked.company_id IS 'Natural key of the selling company';

COMMENT ON COLUMN mart.sales_masked.company_name IS 'Name of the selling company';

COMMENT ON COLUMN mart.sales_masked.company_country IS 'Country of the selling company';

COMMENT ON COLUMN mart.sales_masked.promotion_name IS 'Promotion that applied';

COMMENT ON COLUMN mart.sales_masked.payment_method_name IS 'How it was paid';

COMMENT ON COLUMN mart.sales_masked.distribution_center_name IS 'Where it was sent from';

COMMENT ON COLUMN mart.sales_masked.quantity IS 'Units ordered';

COMMENT ON COLUMN mart.sales_masked.gross_amount IS 'Amount before discounts';

COMMENT ON COLUMN mart.sales_masked.discount_amount IS 'Discounts';

COMMENT ON COLUMN mart.sales_masked.net_amount IS 'Amount after discounts';

COMMENT ON COLUMN mart.sales_masked.profit_amount IS 'Net amount less the base price of the seller';

COMMENT ON COLUMN mart.sales_masked.currency IS 'Currency of the amounts, ISO 4217';

COMMENT ON COLUMN mart.sales_masked.returned_at IS 'When it came back (UTC), if it did';

CREATE VIEW mart.table_freshness AS
 WITH loaded AS (
         SELECT load.source,
            load.table_name,
            max(load.loaded_at) FILTER (WHERE ((((load.rows_inserted + load.rows_updated) + load.rows_closed) + load.rows_deleted) > 0)) AS changed_at,
            max(load.run_id) AS run_id,
            max(max(load.loaded_at)) OVER (PARTITION BY load.source) AS complete_at
           FROM (audit.load load
             JOIN audit.run run ON ((load.run_id = run.run_id)))
          WHERE ((run.status <> 'undone'::text) AND (run.flow <> 'undo'::text))
          GROUP BY load.source, load.table_name
        )
 SELECT loaded.source,
    loaded.table_name,
    loaded.complete_at,
    loaded.changed_at,
    loaded.run_id,
    size.row_count_estimate,
    size.size_bytes
   FROM (loaded
     LEFT JOIN LATERAL ( SELECT (sum(relation.reltuples) FILTER (WHERE (relation.reltuples >= (0)::double precision)))::bigint AS row_count_estimate,
            (sum(pg_total_relation_size((relation.oid)::regclass)))::bigint AS size_bytes
           FROM pg_class relation
          WHERE ((relation.relkind = ANY (ARRAY['r'::"char", 'm'::"char"])) AND ((relation.oid = (to_regclass(loaded.table_name))::oid) OR (relation.oid IN ( SELECT tree.relid
                   FROM pg_partition_tree(to_regclass(loaded.table_name)) tree(relid, parentrelid, isleaf, level)))))) size ON (true));

COMMENT ON VIEW mart.table_freshness IS 'As of when each loaded table is complete, and when it last changed.';

COMMENT ON COLUMN mart.table_freshness.source IS 'Source system or feed';

COMMENT ON COLUMN mart.table_freshness.table_name IS 'Table, with its schema';

COMMENT ON COLUMN mart.table_freshness.complete_at IS 'When its source was last loaded: the table holds everything up to then (UTC)';

COMMENT ON COLUMN mart.table_freshness.changed_at IS 'When a load last changed the table (UTC)';

COMMENT ON COLUMN mart.table_freshness.run_id IS 'Run that last loaded it';

COMMENT ON COLUMN mart.table_freshness.row_count_estimate IS 'About how many rows it has, by the planner''s statistics';

COMMENT ON COLUMN mart.table_freshness.size_bytes IS 'Its size on disk in bytes, indexes and partitions included';

CREATE VIEW mart.top_devices_by_users AS
 SELECT (row_number() OVER (ORDER BY counted.user_count DESC, counted.request_count DESC, device.family))::integer AS device_rank,
    device.family AS device,
    counted.user_count,
    counted.request_count
   FROM (dwh.agg_weblog_device counted
     JOIN dwh.dim_device device ON ((counted.device_key = device.device_key)))
  ORDER BY ((row_number() OVER (ORDER BY counted.user_count DESC, counted.request_count DESC, device.family))::integer)
 LIMIT 5;

COMMENT ON VIEW mart.top_devices_by_users IS 'The five devices that most logged users use.';

COMMENT ON COLUMN mart.top_devices_by_users.device_rank IS 'Rank, from 1';

COMMENT ON COLUMN mart.top_devices_by_users.device IS 'Device family';

COMMENT ON COLUMN mart.top_devices_by_users.user_count IS 'Distinct logged users, exact';

COMMENT ON COLUMN mart.top_devices_by_users.request_count IS 'Requests, of users and visitors';

CREATE VIEW mart.weblog AS
 SELECT weblog.ip_address,
    request.request,
    weblog.country,
    weblog.status_code,
    user_agent.user_agent,
    weblog.requested_at AS request_timestamp,
    (EXTRACT(year FROM (weblog.requested_at AT TIME ZONE 'UTC'::text)))::integer AS year,
    request.product_id,
    request.action,
        CASE
            WHEN (weblog.web_user_key > 0) THEN web_user.user_name
            ELSE NULL::text
        END AS user_name,
    device.family AS device,
    traffic_source.name AS traffic_source,
    traffic_source.medium AS traffic_medium,
    referer.referer,
    weblog.response_bytes,
    weblog.file_id,
    weblog.line_number,
    weblog.run_id
   FROM ((((((dwh.fact_weblog weblog
     LEFT JOIN dwh.dim_request request ON ((weblog.request_key = request.request_key)))
     LEFT JOIN dwh.dim_user_agent user_agent ON ((weblog.user_agent_key = user_agent.user_agent_key)))
     LEFT JOIN dwh.dim_web_user web_user ON ((weblog.web_user_key = web_user.web_user_key)))
     LEFT JOIN dwh.dim_device device ON ((weblog.device_key = device.device_key)))
     LEFT JOIN dwh.dim_traffic_source traffic_source ON ((weblog.traffic_source_key = traffic_source.traffic_source_key)))
     LEFT JOIN dwh.dim_referer referer ON ((weblog.referer_key = referer.referer_key)));

COMMENT ON VIEW mart.weblog IS 'One row per request in the access logs.';

COMMENT ON COLUMN mart.weblog.ip_address IS 'Address that the request came from (personal data)';

COMMENT ON COLUMN mart.weblog.request IS 'Request line: method, target, protocol';

COMMENT ON COLUMN mart.weblog.country IS 'Country of the address, ISO 3166-1 alpha-2; ZZ is unknown';

COMMENT ON COLUMN mart.weblog.status_code IS 'HTTP status of the response';

COMMENT ON COLUMN mart.weblog.user_agent IS 'User agent; - where the log has none';

COMMENT ON COLUMN mart.weblog.request_timestamp IS 'When the request was made (UTC)';

COMMENT ON COLUMN mart.weblog.year IS 'Year of the request (UTC)';

COMMENT ON COLUMN mart.weblog.product_id IS 'Product that the request is about, where it is about one';

COMMENT ON COLUMN mart.weblog.action IS 'view, search, add_to_cart, checkout, login or other';

COMMENT ON COLUMN mart.weblog.user_name IS 'User who was logged in; empty where nobody was (personal data)';

COMMENT ON COLUMN mart.weblog.device IS 'Device family';

COMMENT ON COLUMN mart.weblog.traffic_source IS 'utm_source of the request, else the referring site; direct where there is neither';

COMMENT ON COLUMN mart.weblog.traffic_medium IS 'direct, campaign, search, social, internal or referral';

COMMENT ON COLUMN mart.weblog.referer IS 'Referer; - where the log has none';

COMMENT ON COLUMN mart.weblog.response_bytes IS 'Size of the response in bytes; 0 where the log has -';

COMMENT ON COLUMN mart.weblog.file_id IS 'File of the line: audit.file';

COMMENT ON COLUMN mart.weblog.line_number IS 'Line in that file, from 1';

COMMENT ON COLUMN mart.weblog.run_id IS 'Run that loaded it';

CREATE UNLOGGED TABLE staging.conformed_company (
    source_system text NOT NULL,
    company_id text,
    cuit text,
    name text,
    country text,
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_company IS 'The run''s batch of company in conformed shape: one row per changed company.';

COMMENT ON COLUMN staging.conformed_company.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_company.company_id IS 'Natural key';

COMMENT ON COLUMN staging.conformed_company.cuit IS 'Tax number';

COMMENT ON COLUMN staging.conformed_company.name IS 'Name';

COMMENT ON COLUMN staging.conformed_company.country IS 'Country';

COMMENT ON COLUMN staging.conformed_company.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.conformed_customer (
    source_system text NOT NULL,
    customer_id text,
    document_number text,
    name text,
    username text,
    email text,
    birth_date date,
    country text,
    state text,
    latitude numeric(9,6),
    longitude numeric(9,6),
    loyalty_tier text,
    acquisition_source text,
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_customer IS 'The run''s batch of customer in conformed shape: one row per changed customer.';

COMMENT ON COLUMN staging.conformed_customer.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_customer.customer_id IS 'Natural key';

COMMENT ON COLUMN staging.conformed_customer.document_number IS 'Number of the identity document';

COMMENT ON COLUMN staging.conformed_customer.name IS 'Full name, or the company''s name';

COMMENT ON COLUMN staging.conformed_customer.username IS 'Login name';

COMMENT ON COLUMN staging.conformed_customer.email IS 'E-mail address';

COMMENT ON COLUMN staging.conformed_customer.birth_date IS 'Date of birth';

COMMENT ON COLUMN staging.conformed_customer.country IS 'Country';

COMMENT ON COLUMN staging.conformed_customer.state IS 'State, province or region';

COMMENT ON COLUMN staging.conformed_customer.latitude IS 'Latitude, degrees north';

COMMENT ON COLUMN staging.conformed_customer.longitude IS 'Longitude, degrees east';

COMMENT ON COLUMN staging.conformed_customer.loyalty_tier IS 'Tier in the loyalty programme';

COMMENT ON COLUMN staging.conformed_customer.acquisition_source IS 'Channel that the customer came by';

COMMENT ON COLUMN staging.conformed_customer.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.conformed_distribution_center (
    source_system text NOT NULL,
    distribution_center_id text,
    name text,
    latitude numeric(9,6),
    longitude numeric(9,6),
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_distribution_center IS 'The run''s batch of distribution_center in conformed shape: one row per changed distribution_center.';

COMMENT ON COLUMN staging.conformed_distribution_center.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_distribution_center.distribution_center_id IS 'Natural key';

COMMENT ON COLUMN staging.conformed_distribution_center.name IS 'Name';

COMMENT ON COLUMN staging.conformed_distribution_center.latitude IS 'Latitude, degrees north';

COMMENT ON COLUMN staging.conformed_distribution_center.longitude IS 'Longitude, degrees east';

COMMENT ON COLUMN staging.conformed_distribution_center.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.conformed_order_item (
    source_system text NOT NULL,
    order_id text,
    line_id text,
    customer_id text,
    product_id text,
    promotion_id text,
    payment_method_id text,
    distribution_center_id text,
    ordered_at timestamp with time zone,
    status text,
    quantity numeric,
    unit_price_default_amount numeric,
    unit_price_amount numeric,
    discount_amount numeric,
    order_total_amount numeric,
    currency text,
    returned_at timestamp with time zone,
    recorded_at timestamp with time zone,
    has_customer boolean,
    has_product boolean,
    customer_name text,
    customer_document_number text,
    customer_birth_date date,
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_order_item IS 'The run''s batch of order_item in conformed shape: one row per changed order_item.';

COMMENT ON COLUMN staging.conformed_order_item.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_order_item.order_id IS 'Natural key: order';

COMMENT ON COLUMN staging.conformed_order_item.line_id IS 'Natural key: line';

COMMENT ON COLUMN staging.conformed_order_item.customer_id IS 'Natural key of the customer';

COMMENT ON COLUMN staging.conformed_order_item.product_id IS 'Natural key of the product';

COMMENT ON COLUMN staging.conformed_order_item.promotion_id IS 'Natural key of the promotion';

COMMENT ON COLUMN staging.conformed_order_item.payment_method_id IS 'Natural key of the payment method';

COMMENT ON COLUMN staging.conformed_order_item.distribution_center_id IS 'Natural key of the distribution center';

COMMENT ON COLUMN staging.conformed_order_item.ordered_at IS 'When it was ordered (UTC)';

COMMENT ON COLUMN staging.conformed_order_item.status IS 'Status of the line';

COMMENT ON COLUMN staging.conformed_order_item.quantity IS 'Units ordered';

COMMENT ON COLUMN staging.conformed_order_item.unit_price_default_amount IS 'Seller''s base price of a unit';

COMMENT ON COLUMN staging.conformed_order_item.unit_price_amount IS 'Price of a unit before discount';

COMMENT ON COLUMN staging.conformed_order_item.discount_amount IS 'Discount on the line';

COMMENT ON COLUMN staging.conformed_order_item.order_total_amount IS 'Net amount of all lines of the order';

COMMENT ON COLUMN staging.conformed_order_item.currency IS 'Currency of all amounts';

COMMENT ON COLUMN staging.conformed_order_item.returned_at IS 'When it was returned (UTC)';

COMMENT ON COLUMN staging.conformed_order_item.recorded_at IS 'When the source recorded its last change (UTC)';

COMMENT ON COLUMN staging.conformed_order_item.has_customer IS 'Whether the source holds the customer that it names';

COMMENT ON COLUMN staging.conformed_order_item.has_product IS 'Whether the source holds the product that it names';

COMMENT ON COLUMN staging.conformed_order_item.customer_name IS 'Name of the customer, for the contract';

COMMENT ON COLUMN staging.conformed_order_item.customer_document_number IS 'Document number of the customer, for the contract';

COMMENT ON COLUMN staging.conformed_order_item.customer_birth_date IS 'Birth date of the customer, for the contract';

COMMENT ON COLUMN staging.conformed_order_item.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.conformed_payment_method (
    source_system text NOT NULL,
    payment_method_id text,
    name text,
    kind text,
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_payment_method IS 'The run''s batch of payment_method in conformed shape: one row per changed payment_method.';

COMMENT ON COLUMN staging.conformed_payment_method.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_payment_method.payment_method_id IS 'Natural key';

COMMENT ON COLUMN staging.conformed_payment_method.name IS 'Name';

COMMENT ON COLUMN staging.conformed_payment_method.kind IS 'Kind of payment';

COMMENT ON COLUMN staging.conformed_payment_method.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.conformed_product (
    source_system text NOT NULL,
    product_id text,
    company_id text,
    name text,
    category text,
    brand text,
    price_default_amount numeric(18,4),
    price_amount numeric(18,4),
    currency text,
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_product IS 'The run''s batch of product in conformed shape: one row per changed product.';

COMMENT ON COLUMN staging.conformed_product.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_product.product_id IS 'Natural key';

COMMENT ON COLUMN staging.conformed_product.company_id IS 'Natural key of the selling company';

COMMENT ON COLUMN staging.conformed_product.name IS 'Name';

COMMENT ON COLUMN staging.conformed_product.category IS 'Name of its category';

COMMENT ON COLUMN staging.conformed_product.brand IS 'Name of its brand';

COMMENT ON COLUMN staging.conformed_product.price_default_amount IS 'Base price of the seller';

COMMENT ON COLUMN staging.conformed_product.price_amount IS 'Price that the platform charges';

COMMENT ON COLUMN staging.conformed_product.currency IS 'Currency of the prices';

COMMENT ON COLUMN staging.conformed_product.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.conformed_promotion (
    source_system text NOT NULL,
    promotion_id text,
    name text,
    discount_share numeric(6,4),
    starts_at timestamp with time zone,
    ends_at timestamp with time zone,
    changed_at timestamp with time zone
);

COMMENT ON TABLE staging.conformed_promotion IS 'The run''s batch of promotion in conformed shape: one row per changed promotion.';

COMMENT ON COLUMN staging.conformed_promotion.source_system IS 'Source system';

COMMENT ON COLUMN staging.conformed_promotion.promotion_id IS 'Natural key';

COMMENT ON COLUMN staging.conformed_promotion.name IS 'Name';

COMMENT ON COLUMN staging.conformed_promotion.discount_share IS 'Share of the price that it takes off';

COMMENT ON COLUMN staging.conformed_promotion.starts_at IS 'First moment it holds (UTC)';

COMMENT ON COLUMN staging.conformed_promotion.ends_at IS 'First moment it no longer holds (UTC)';

COMMENT ON COLUMN staging.conformed_promotion.changed_at IS 'When the source changed it (UTC); empty where the source does not say';

CREATE UNLOGGED TABLE staging.source_chunk (
    source text NOT NULL,
    table_name text NOT NULL,
    chunks integer NOT NULL,
    bucket integer NOT NULL,
    row_count bigint NOT NULL,
    key_sum numeric NOT NULL,
    content_sum numeric NOT NULL
);

COMMENT ON TABLE staging.source_chunk IS 'Chunked key and row hashes of the source at the run''s snapshot, which the mirror must equal after the run.';

COMMENT ON COLUMN staging.source_chunk.source IS 'Source system';

COMMENT ON COLUMN staging.source_chunk.table_name IS 'Table in the source';

COMMENT ON COLUMN staging.source_chunk.chunks IS 'Number of chunks that the table is cut into';

COMMENT ON COLUMN staging.source_chunk.bucket IS 'Chunk: the low bits of its keys'' hashes';

COMMENT ON COLUMN staging.source_chunk.row_count IS 'Rows in the chunk';

COMMENT ON COLUMN staging.source_chunk.key_sum IS 'Sum of the hashes of their keys';

COMMENT ON COLUMN staging.source_chunk.content_sum IS 'Sum of the hashes of the rows';

CREATE UNLOGGED TABLE staging.source_digest (
    source text NOT NULL,
    table_name text NOT NULL,
    captured_at timestamp with time zone NOT NULL,
    chunks integer NOT NULL,
    column_names text[] NOT NULL
);

COMMENT ON TABLE staging.source_digest IS 'What the chunks of staging.source_chunk were cut from: one row per source table.';

COMMENT ON COLUMN staging.source_digest.source IS 'Source system';

COMMENT ON COLUMN staging.source_digest.table_name IS 'Table in the source';

COMMENT ON COLUMN staging.source_digest.captured_at IS 'Source''s clock at the snapshot (UTC)';

COMMENT ON COLUMN staging.source_digest.chunks IS 'Number of chunks that the table is cut into';

COMMENT ON COLUMN staging.source_digest.column_names IS 'Columns that the rows'' hashes are made of';

CREATE UNLOGGED TABLE staging.weblog_country (
    country text NOT NULL,
    request_count bigint NOT NULL
);

COMMENT ON TABLE staging.weblog_country IS 'What a batch of web log files adds to dwh.agg_weblog_country.';

COMMENT ON COLUMN staging.weblog_country.country IS 'Country: dim_country';

COMMENT ON COLUMN staging.weblog_country.request_count IS 'Requests';

CREATE UNLOGGED TABLE staging.weblog_country_product (
    country text NOT NULL,
    product_id text NOT NULL,
    view_count bigint NOT NULL
);

COMMENT ON TABLE staging.weblog_country_product IS 'What a batch of web log files adds to dwh.agg_weblog_country_product.';

COMMENT ON COLUMN staging.weblog_country_product.country IS 'Country: dim_country';

COMMENT ON COLUMN staging.weblog_country_product.product_id IS 'Natural key of the product, as requested';

COMMENT ON COLUMN staging.weblog_country_product.view_count IS 'Requests with action view';

CREATE UNLOGGED TABLE staging.weblog_country_user (
    country text NOT NULL,
    web_user_key integer NOT NULL,
    last_seen_date date NOT NULL
);

COMMENT ON TABLE staging.weblog_country_user IS 'What a batch of web log files adds to dwh.agg_weblog_country_user.';

COMMENT ON COLUMN staging.weblog_country_user.country IS 'Country: dim_country';

COMMENT ON COLUMN staging.weblog_country_user.web_user_key IS 'User: dim_web_user';

COMMENT ON COLUMN staging.weblog_country_user.last_seen_date IS 'Day (UTC) on which the pair was seen last in the batch';

CREATE UNLOGGED TABLE staging.weblog_day (
    request_date date NOT NULL,
    action text NOT NULL,
    request_count bigint NOT NULL
);

COMMENT ON TABLE staging.weblog_day IS 'What a batch of web log files adds to dwh.agg_weblog_day.';

COMMENT ON COLUMN staging.weblog_day.request_date IS 'Day (UTC)';

COMMENT ON COLUMN staging.weblog_day.action IS 'view, search, add_to_cart, checkout, login or other';

COMMENT ON COLUMN staging.weblog_day.request_count IS 'Requests';

CREATE UNLOGGED TABLE staging.weblog_device (
    device_key smallint NOT NULL,
    request_count bigint NOT NULL
);

COMMENT ON TABLE staging.weblog_device IS 'What a batch of web log files adds to dwh.agg_weblog_device.';

COMMENT ON COLUMN staging.weblog_device.device_key IS 'Device: dim_device';

COMMENT ON COLUMN staging.weblog_device.request_count IS 'Requests';

CREATE UNLOGGED TABLE staging.weblog_device_user (
    device_key smallint NOT NULL,
    web_user_key integer NOT NULL,
    last_seen_date date NOT NULL
);

COMMENT ON TABLE staging.weblog_device_user IS 'What a batch of web log files adds to dwh.agg_weblog_device_user.';

COMMENT ON COLUMN staging.weblog_device_user.device_key IS 'Device: dim_device';

COMMENT ON COLUMN staging.weblog_device_user.web_user_key IS 'User: dim_web_user';

COMMENT ON COLUMN staging.weblog_device_user.last_seen_date IS 'Day (UTC) on which the pair was seen last in the batch';

CREATE UNLOGGED TABLE staging.weblog_file (
    file_id integer NOT NULL,
    path text NOT NULL,
    line_count bigint NOT NULL,
    rows_loaded bigint NOT NULL,
    rows_quarantined bigint NOT NULL,
    malformed_line_count bigint NOT NULL,
    impossible_date_count bigint NOT NULL,
    bad_status_count bigint NOT NULL,
    bad_address_count bigint NOT NULL,
    unfinished_line_count bigint NOT NULL
);

COMMENT ON TABLE staging.weblog_file IS 'Files of a batch of web logs: one row per file, with the lines that became rows and those that could not.';

COMMENT ON COLUMN staging.weblog_file.file_id IS 'File: audit.file';

COMMENT ON COLUMN staging.weblog_file.path IS 'Its path in the landing folder';

COMMENT ON COLUMN staging.weblog_file.line_count IS 'Lines read in this batch';

COMMENT ON COLUMN staging.weblog_file.rows_loaded IS 'Lines that became rows';

COMMENT ON COLUMN staging.weblog_file.rows_quarantined IS 'Lines that went to audit.quarantine';

COMMENT ON COLUMN staging.weblog_file.malformed_line_count IS 'Lines that are not laid out as access log lines';

COMMENT ON COLUMN staging.weblog_file.impossible_date_count IS 'Lines of a time that does not exist';

COMMENT ON COLUMN staging.weblog_file.bad_status_count IS 'Lines whose status is no HTTP status';

COMMENT ON COLUMN staging.weblog_file.bad_address_count IS 'Lines whose address is no IP address';

COMMENT ON COLUMN staging.weblog_file.unfinished_line_count IS 'Last lines that break off; they are read again when they go on';

CREATE UNLOGGED TABLE staging.weblog_gone (
    requested_at timestamp with time zone NOT NULL,
    country text NOT NULL,
    device_key smallint NOT NULL,
    request_key integer NOT NULL,
    file_id integer NOT NULL
);

COMMENT ON TABLE staging.weblog_gone IS 'Requests that retention has just deleted from a partition which also holds younger ones.';

COMMENT ON COLUMN staging.weblog_gone.requested_at IS 'When the request was made (UTC)';

COMMENT ON COLUMN staging.weblog_gone.country IS 'Country that it had';

COMMENT ON COLUMN staging.weblog_gone.device_key IS 'Device: dim_device';

COMMENT ON COLUMN staging.weblog_gone.request_key IS 'Request line: dim_request';

COMMENT ON COLUMN staging.weblog_gone.file_id IS 'File of the line: audit.file';

CREATE UNLOGGED TABLE staging.weblog_moved (
    country text NOT NULL,
    new_country text NOT NULL,
    web_user_key integer NOT NULL,
    request_key integer NOT NULL,
    request_date date NOT NULL
);

COMMENT ON TABLE staging.weblog_moved IS 'Requests of a month that have moved to another country: what the aggregates are mended by.';

COMMENT ON COLUMN staging.weblog_moved.country IS 'Country that the request had';

COMMENT ON COLUMN staging.weblog_moved.new_country IS 'Country that it has now';

COMMENT ON COLUMN staging.weblog_moved.web_user_key IS 'User: dim_web_user';

COMMENT ON COLUMN staging.weblog_moved.request_key IS 'Request line: dim_request';

COMMENT ON COLUMN staging.weblog_moved.request_date IS 'Day (UTC)';

CREATE UNLOGGED TABLE staging.weblog_moving (
    country text NOT NULL,
    ip_address inet NOT NULL,
    new_country text NOT NULL
);

COMMENT ON TABLE staging.weblog_moving IS 'Addresses that a newer GeoIP database has elsewhere, of the month whose requests are to move.';

COMMENT ON COLUMN staging.weblog_moving.country IS 'Country that their requests have';

COMMENT ON COLUMN staging.weblog_moving.ip_address IS 'Address (personal data)';

COMMENT ON COLUMN staging.weblog_moving.new_country IS 'Country that the address is in now';

ALTER TABLE ONLY audit.file_part
    ADD CONSTRAINT ex_file_part_bytes EXCLUDE USING gist (int8range((file_id)::bigint, (file_id)::bigint, '[]'::text) WITH &&, int8range(byte_offset, (byte_offset + byte_count)) WITH &&);

ALTER TABLE ONLY audit.file_part
    ADD CONSTRAINT ex_file_part_lines EXCLUDE USING gist (int8range((file_id)::bigint, (file_id)::bigint, '[]'::text) WITH &&, int8range(first_line, (first_line + line_count)) WITH &&);

ALTER TABLE ONLY audit.layout
    ADD CONSTRAINT ex_layout_columns EXCLUDE USING hash (columns WITH =);

ALTER TABLE ONLY audit.before_image
    ADD CONSTRAINT pk_before_image PRIMARY KEY (image_id);

ALTER TABLE ONLY audit.change
    ADD CONSTRAINT pk_change PRIMARY KEY (change_id);

ALTER TABLE ONLY audit.check_result
    ADD CONSTRAINT pk_check_result PRIMARY KEY (check_result_id);

ALTER TABLE ONLY audit.difference
    ADD CONSTRAINT pk_difference PRIMARY KEY (difference_id);

ALTER TABLE ONLY audit.file
    ADD CONSTRAINT pk_file PRIMARY KEY (file_id);

ALTER TABLE ONLY audit.file_part
    ADD CONSTRAINT pk_file_part PRIMARY KEY (file_id, first_line);

ALTER TABLE ONLY audit.layout
    ADD CONSTRAINT pk_layout PRIMARY KEY (layout_id);

ALTER TABLE ONLY audit.load
    ADD CONSTRAINT pk_load PRIMARY KEY (load_id);

ALTER TABLE ONLY audit.outbox
    ADD CONSTRAINT pk_outbox PRIMARY KEY (mail_id);

ALTER TABLE ONLY audit.partition_load
    ADD CONSTRAINT pk_partition_load PRIMARY KEY (feed, partition_date, run_id);

ALTER TABLE ONLY audit.personal_data
    ADD CONSTRAINT pk_personal_data PRIMARY KEY (schema_name, table_name, column_name);

ALTER TABLE ONLY audit.proof
    ADD CONSTRAINT pk_proof PRIMARY KEY (proof_id);

ALTER TABLE ONLY audit.quarantine
    ADD CONSTRAINT pk_quarantine PRIMARY KEY (quarantine_id);

ALTER TABLE ONLY audit.run
    ADD CONSTRAINT pk_run PRIMARY KEY (run_id);

ALTER TABLE ONLY audit.watermark
    ADD CONSTRAINT pk_watermark PRIMARY KEY (source, table_name);

ALTER TABLE ONLY audit.weblog_month
    ADD CONSTRAINT pk_weblog_month PRIMARY KEY (request_month);

ALTER TABLE ONLY dwh.dim_company
    ADD CONSTRAINT ex_dim_company_overlap EXCLUDE USING gist (int8range(hashtextextended(company_id, (0)::bigint), hashtextextended(company_id, (0)::bigint), '[]'::text) WITH &&, int8range(hashtextextended(company_id, hashtextextended(source_system, (1)::bigint)), hashtextextended(company_id, hashtextextended(source_system, (1)::bigint)), '[]'::text) WITH &&, tstzrange(valid_from, valid_to) WITH &&);

ALTER TABLE ONLY dwh.dim_customer
    ADD CONSTRAINT ex_dim_customer_overlap EXCLUDE USING gist (int8range(hashtextextended(customer_id, (0)::bigint), hashtextextended(customer_id, (0)::bigint), '[]'::text) WITH &&, int8range(hashtextextended(customer_id, hashtextextended(source_system, (1)::bigint)), hashtextextended(customer_id, hashtextextended(source_system, (1)::bigint)), '[]'::text) WITH &&, tstzrange(valid_from, valid_to) WITH &&);

ALTER TABLE ONLY dwh.dim_product
    ADD CONSTRAINT ex_dim_product_overlap EXCLUDE USING gist (int8range(hashtextextended(product_id, (0)::bigint), hashtextextended(product_id, (0)::bigint), '[]'::text) WITH &&, int8range(hashtextextended(product_id, hashtextextended(source_system, (1)::bigint)), hashtextextended(product_id, hashtextextended(source_system, (1)::bigint)), '[]'::text) WITH &&, tstzrange(valid_from, valid_to) WITH &&);

ALTER TABLE ONLY dwh.agg_weblog_country
    ADD CONSTRAINT pk_agg_weblog_country PRIMARY KEY (country);

ALTER TABLE ONLY dwh.agg_weblog_country_product
    ADD CONSTRAINT pk_agg_weblog_country_product PRIMARY KEY (country, product_id);

ALTER TABLE ONLY dwh.agg_weblog_country_user
    ADD CONSTRAINT pk_agg_weblog_country_user PRIMARY KEY (country, web_user_key);

ALTER TABLE ONLY dwh.agg_weblog_day
    ADD CONSTRAINT pk_agg_weblog_day PRIMARY KEY (request_date, action);

ALTER TABLE ONLY dwh.agg_weblog_device
    ADD CONSTRAINT pk_agg_weblog_device PRIMARY KEY (device_key);

ALTER TABLE ONLY dwh.agg_weblog_device_user
    ADD CONSTRAINT pk_agg_weblog_device_user PRIMARY KEY (device_key, web_user_key);

ALTER TABLE ONLY dwh.dim_company
    ADD CONSTRAINT pk_dim_company PRIMARY KEY (company_key);

ALTER TABLE ONLY dwh.dim_country
    ADD CONSTRAINT pk_dim_country PRIMARY KEY (country);

ALTER TABLE ONLY dwh.dim_customer
    ADD CONSTRAINT pk_dim_customer PRIMARY KEY (customer_key);

ALTER TABLE ONLY dwh.dim_date
    ADD CONSTRAINT pk_dim_date PRIMARY KEY (date_key);

ALTER TABLE ONLY dwh.dim_device
    ADD CONSTRAINT pk_dim_device PRIMARY KEY (device_key);

ALTER TABLE ONLY dwh.dim_distribution_center
    ADD CONSTRAINT pk_dim_distribution_center PRIMARY KEY (distribution_center_key);

ALTER TABLE ONLY dwh.dim_payment_method
    ADD CONSTRAINT pk_dim_payment_method PRIMARY KEY (payment_method_key);

ALTER TABLE ONLY dwh.dim_product
    ADD CONSTRAINT pk_dim_product PRIMARY KEY (product_key);

ALTER TABLE ONLY dwh.dim_promotion
    ADD CONSTRAINT pk_dim_promotion PRIMARY KEY (promotion_key);

ALTER TABLE ONLY dwh.dim_referer
    ADD CONSTRAINT pk_dim_referer PRIMARY KEY (referer_key);

ALTER TABLE ONLY dwh.dim_request
    ADD CONSTRAINT pk_dim_request PRIMARY KEY (request_key);

ALTER TABLE ONLY dwh.dim_traffic_source
    ADD CONSTRAINT pk_dim_traffic_source PRIMARY KEY (traffic_source_key);

ALTER TABLE ONLY dwh.dim_user_agent
    ADD CONSTRAINT pk_dim_user_agent PRIMARY KEY (user_agent_key);

ALTER TABLE ONLY dwh.dim_web_user
    ADD CONSTRAINT pk_dim_web_user PRIMARY KEY (web_user_key);

ALTER TABLE ONLY dwh.fact_order_item
    ADD CONSTRAINT pk_fact_order_item PRIMARY KEY (order_id, line_id, source_system);

ALTER TABLE ONLY dwh.dim_company
    ADD CONSTRAINT uq_dim_company_company_id_valid_from UNIQUE (company_id, source_system, valid_from);

ALTER TABLE ONLY dwh.dim_customer
    ADD CONSTRAINT uq_dim_customer_customer_id_valid_from UNIQUE (customer_id, source_system, valid_from);

ALTER TABLE ONLY dwh.dim_date
    ADD CONSTRAINT uq_dim_date_date UNIQUE (date);

ALTER TABLE ONLY dwh.dim_device
    ADD CONSTRAINT uq_dim_device_family UNIQUE (family);

ALTER TABLE ONLY dwh.dim_distribution_center
    ADD CONSTRAINT uq_dim_distribution_center_distribution_center_id UNIQUE (distribution_center_id, source_system);

ALTER TABLE ONLY dwh.dim_payment_method
    ADD CONSTRAINT uq_dim_payment_method_payment_method_id UNIQUE (payment_method_id, source_system);

ALTER TABLE ONLY dwh.dim_product
    ADD CONSTRAINT uq_dim_product_product_id_valid_from UNIQUE (product_id, source_system, valid_from);

ALTER TABLE ONLY dwh.dim_promotion
    ADD CONSTRAINT uq_dim_promotion_promotion_id UNIQUE (promotion_id, source_system);

ALTER TABLE ONLY dwh.dim_referer
    ADD CONSTRAINT uq_dim_referer_text_hash UNIQUE (text_hash);

ALTER TABLE ONLY dwh.dim_request
    ADD CONSTRAINT uq_dim_request_text_hash UNIQUE (text_hash);

ALTER TABLE ONLY dwh.dim_traffic_source
    ADD CONSTRAINT uq_dim_traffic_source_name_medium UNIQUE (name, medium);

ALTER TABLE ONLY dwh.dim_user_agent
    ADD CONSTRAINT uq_dim_user_agent_text_hash UNIQUE (text_hash);

ALTER TABLE ONLY dwh.dim_web_user
    ADD CONSTRAINT uq_dim_web_user_text_hash UNIQUE (text_hash);

ALTER TABLE ONLY staging.source_chunk
    ADD CONSTRAINT pk_source_chunk PRIMARY KEY (source, table_name, bucket);

ALTER TABLE ONLY staging.source_digest
    ADD CONSTRAINT pk_source_digest PRIMARY KEY (source, table_name);

CREATE INDEX ix_before_image_run_id ON audit.before_image USING brin (run_id, kept_at) WITH (pages_per_range='32');

CREATE INDEX ix_change_row_key ON audit.change USING hash (row_key);

CREATE INDEX ix_change_run_id ON audit.change USING brin (run_id, changed_at) WITH (pages_per_range='32');

CREATE INDEX ix_check_result_run_id ON audit.check_result USING btree (run_id);

CREATE INDEX ix_difference_run_id ON audit.difference USING btree (run_id);

CREATE INDEX ix_file_head_hash ON audit.file USING btree (feed, head_hash);

CREATE INDEX ix_file_last_event_at ON audit.file USING btree (feed, last_event_at);

CREATE INDEX ix_file_part_run_id ON audit.file_part USING btree (run_id);

CREATE INDEX ix_load_run_id ON audit.load USING btree (run_id);

CREATE INDEX ix_load_table_name_loaded_at ON audit.load USING btree (table_name, loaded_at);

CREATE INDEX ix_outbox_due_at ON audit.outbox USING btree (due_at) WHERE (sent_at IS NULL);

CREATE INDEX ix_outbox_run_id ON audit.outbox USING btree (run_id);

CREATE INDEX ix_partition_load_run_id ON audit.partition_load USING btree (run_id);

CREATE INDEX ix_proof_run_id ON audit.proof USING btree (run_id);

CREATE INDEX ix_quarantine_file ON audit.quarantine USING btree (file_id, line_number) WHERE (file_id IS NOT NULL);

CREATE INDEX ix_quarantine_open ON audit.quarantine USING btree (source, entity) WHERE ((resolved_at IS NULL) AND (row_key IS NOT NULL));

CREATE INDEX ix_quarantine_run_id ON audit.quarantine USING btree (run_id);

CREATE INDEX ix_run_flow ON audit.run USING btree (flow, run_id);

CREATE INDEX ix_run_parent_run_id ON audit.run USING btree (parent_run_id) WHERE (parent_run_id IS NOT NULL);

CREATE INDEX ix_run_running ON audit.run USING btree (run_id) WHERE (status = 'running'::text);

CREATE INDEX ix_run_started_at ON audit.run USING btree (started_at);

CREATE INDEX ix_run_unpruned ON audit.run USING btree (started_at) WHERE (pruned_at IS NULL);

CREATE UNIQUE INDEX uq_file_feed_path ON audit.file USING btree (feed, path) WHERE (status <> 'replaced'::text);

CREATE UNIQUE INDEX uq_outbox_problem ON audit.outbox USING btree (problem) WHERE (resolved_at IS NULL);

CREATE INDEX ix_dim_company_closed_by_run_id ON dwh.dim_company USING btree (closed_by_run_id) WHERE (closed_by_run_id IS NOT NULL);

CREATE INDEX ix_dim_customer_closed_by_run_id ON dwh.dim_customer USING btree (closed_by_run_id) WHERE (closed_by_run_id IS NOT NULL);

CREATE INDEX ix_dim_product_closed_by_run_id ON dwh.dim_product USING btree (closed_by_run_id) WHERE (closed_by_run_id IS NOT NULL);

CREATE INDEX ix_dim_request_product_id ON dwh.dim_request USING btree (product_id) WHERE (product_id IS NOT NULL);

CREATE INDEX ix_fact_order_item_ordered_at ON dwh.fact_order_item USING brin (ordered_at) WITH (pages_per_range='32');

CREATE INDEX ix_fact_weblog_file_id_line_number ON ONLY dwh.fact_weblog USING brin (file_id, line_number);

CREATE INDEX ix_fact_weblog_requested_at ON ONLY dwh.fact_weblog USING brin (requested_at);

CREATE UNIQUE INDEX uq_dim_company_current ON dwh.dim_company USING btree (company_id, source_system) WHERE is_current;

CREATE UNIQUE INDEX uq_dim_customer_current ON dwh.dim_customer USING btree (customer_id, source_system) WHERE is_current;

CREATE UNIQUE INDEX uq_dim_product_current ON dwh.dim_product USING btree (product_id, source_system) WHERE is_current;

CREATE UNIQUE INDEX uq_sales_by_month_source_system_month_currency ON mart.sales_by_month USING btree (source_system, month, currency);

INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'document_number', 'document number');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'name', 'name');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'username', 'login name');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'email', 'e-mail');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'birth_date', 'birth date');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'latitude', 'address');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_customer', 'longitude', 'address');
INSERT INTO audit.personal_data VALUES ('dwh', 'dim_web_user', 'user_name', 'login name');
INSERT INTO audit.personal_data VALUES ('dwh', 'fact_weblog', 'ip_address', 'IP address');
INSERT INTO audit.personal_data VALUES ('mart', 'sales', 'customer_name', 'name');
INSERT INTO audit.personal_data VALUES ('mart', 'weblog', 'ip_address', 'IP address');
INSERT INTO audit.personal_data VALUES ('mart', 'weblog', 'user_name', 'login name');
INSERT INTO audit.personal_data VALUES ('audit', 'quarantine', 'row_data', 'rows of any kind');
INSERT INTO audit.personal_data VALUES ('audit', 'quarantine', 'raw_text', 'lines of any kind');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'document_number', 'document number');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'name', 'name');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'username', 'login name');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'email', 'e-mail');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'birth_date', 'birth date');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'latitude', 'address');
INSERT INTO audit.personal_data VALUES ('raw', 'shop_customer', 'longitude', 'address');
INSERT INTO audit.personal_data VALUES ('staging', 'weblog_moving', 'ip_address', 'IP address');
INSERT INTO audit.personal_data VALUES ('audit', 'change', 'before', 'rows of any kind');
INSERT INTO audit.personal_data VALUES ('audit', 'change', 'after', 'rows of any kind');
INSERT INTO audit.personal_data VALUES ('audit', 'before_image', 'before', 'rows of any kind');
INSERT INTO audit.personal_data VALUES ('audit', 'difference', 'before', 'rows of any kind');
INSERT INTO audit.personal_data VALUES ('audit', 'difference', 'after', 'rows of any kind');
INSERT INTO dwh.dim_company VALUES (0, '', '', NULL, NULL, NULL, '1900-01-01 00:00:00+00', '2100-01-01 00:00:00+00', true, false, 0, 0, NULL);
INSERT INTO dwh.dim_country VALUES ('AD', 'Andorra', 0);
INSERT INTO dwh.dim_country VALUES ('AE', 'United Arab Emirates', 0);
INSERT INTO dwh.dim_country VALUES ('AF', 'Afghanistan', 0);
INSERT INTO dwh.dim_country VALUES ('AG', 'Antigua and Barbuda', 0);
INSERT INTO dwh.dim_country VALUES ('AI', 'Anguilla', 0);
INSERT INTO dwh.dim_country VALUES ('AL', 'Albania', 0);
INSERT INTO dwh.dim_country VALUES ('AM', 'Armenia', 0);
INSERT INTO dwh.dim_country VALUES ('AO', 'Angola', 0);
INSERT INTO dwh.dim_country VALUES ('AQ', 'Antarctica', 0);
INSERT INTO dwh.dim_country VALUES ('AR', 'Argentina', 0);
INSERT INTO dwh.dim_country VALUES ('AS', 'American Samoa', 0);
INSERT INTO dwh.dim_country VALUES ('AT', 'Austria', 0);
INSERT INTO dwh.dim_country VALUES ('AU', 'Australia', 0);
INSERT INTO dwh.dim_country VALUES ('AW', 'Aruba', 0);
INSERT INTO dwh.dim_country VALUES ('AX', 'Åland Islands', 0);
INSERT INTO dwh.dim_country VALUES ('AZ', 'Azerbaijan', 0);
INSERT INTO dwh.dim_country VALUES ('BA', 'Bosnia and Herzegovina', 0);
INSERT INTO dwh.dim_country VALUES ('BB', 'Barbados', 0);
INSERT INTO dwh.dim_country VALUES ('BD', 'Bangladesh', 0);
INSERT INTO dwh.dim_country VALUES ('BE', 'Belgium', 0);
INSERT INTO dwh.dim_country VALUES ('BF', 'Burkina Faso', 0);
INSERT INTO dwh.dim_country VALUES ('BG', 'Bulgaria', 0);
INSERT INTO dwh.dim_country VALUES ('BH', 'Bahrain', 0);
INSERT INTO dwh.dim_country VALUES ('BI', 'Burundi', 0);
INSERT INTO dwh.dim_country VALUES ('BJ', 'Benin', 0);
INSERT INTO dwh.dim_country VALUES ('BL', 'Saint Barthélemy', 0);
INSERT INTO dwh.dim_country VALUES ('BM', 'Bermuda', 0);
INSERT INTO dwh.dim_country VALUES ('BN', 'Brunei', 0);
INSERT INTO dwh.dim_country VALUES ('BO', 'Bolivia', 0);
INSERT INTO dwh.dim_country VALUES ('BQ', 'Caribbean Netherlands', 0);
INSERT INTO dwh.dim_country VALUES ('BR', 'Brazil', 0);
INSERT INTO dwh.dim_country VALUES ('BS', 'Bahamas', 0);
INSERT INTO dwh.dim_country VALUES ('BT', 'Bhutan', 0);
INSERT INTO dwh.dim_country VALUES ('BV', 'Bouvet Island', 0);
INSERT INTO dwh.dim_country VALUES ('BW', 'Botswana', 0);
INSERT INTO dwh.dim_country VALUES ('BY', 'Belarus', 0);
INSERT INTO dwh.dim_country VALUES ('BZ', 'Belize', 0);
INSERT INTO dwh.dim_country VALUES ('CA', 'Canada', 0);
INSERT INTO dwh.dim_country VALUES ('CC', 'Cocos (Keeling) Islands', 0);
INSERT INTO dwh.dim_country VALUES ('CD', 'Congo, Democratic Republic', 0);
INSERT INTO dwh.dim_country VALUES ('CF', 'Central African Republic', 0);
INSERT INTO dwh.dim_country VALUES ('CG', 'Congo', 0);
INSERT INTO dwh.dim_country VALUES ('CH', 'Switzerland', 0);
INSERT INTO dwh.dim_country VALUES ('CI', 'Côte d''Ivoire', 0);
INSERT INTO dwh.dim_country VALUES ('CK', 'Cook Islands', 0);
INSERT INTO dwh.dim_country VALUES ('CL', 'Chile', 0);
INSERT INTO dwh.dim_country VALUES ('CM', 'Cameroon', 0);
INSERT INTO dwh.dim_country VALUES ('CN', 'China', 0);
INSERT INTO dwh.dim_country VALUES ('CO', 'Colombia', 0);
INSERT INTO dwh.dim_country VALUES ('CR', 'Costa Rica', 0);
INSERT INTO dwh.dim_country VALUES ('CU', 'Cuba', 0);
INSERT INTO dwh.dim_country VALUES ('CV', 'Cabo Verde', 0);
INSERT INTO dwh.dim_country VALUES ('CW', 'Curaçao', 0);
INSERT INTO dwh.dim_country VALUES ('CX', 'Christmas Island', 0);
INSERT INTO dwh.dim_country VALUES ('CY', 'Cyprus', 0);
INSERT INTO dwh.dim_country VALUES ('CZ', 'Czechia', 0);
INSERT INTO dwh.dim_country VALUES ('DE', 'Germany', 0);
INSERT INTO dwh.dim_country VALUES ('DJ', 'Djibouti', 0);
INSERT INTO dwh.dim_country VALUES ('DK', 'Denmark', 0);
INSERT INTO dwh.dim_country VALUES ('DM', 'Dominica', 0);
INSERT INTO dwh.dim_country VALUES ('DO', 'Dominican Republic', 0);
INSERT INTO dwh.dim_country VALUES ('DZ', 'Algeria', 0);
INSERT INTO dwh.dim_country VALUES ('EC', 'Ecuador', 0);
INSERT INTO dwh.dim_country VALUES ('EE', 'Estonia', 0);
INSERT INTO dwh.dim_country VALUES ('EG', 'Egypt', 0);
INSERT INTO dwh.dim_country VALUES ('EH', 'Western Sahara', 0);
INSERT INTO dwh.dim_country VALUES ('ER', 'Eritrea', 0);
INSERT INTO dwh.dim_country VALUES ('ES', 'Spain', 0);
INSERT INTO dwh.dim_country VALUES ('ET', 'Ethiopia', 0);
INSERT INTO dwh.dim_country VALUES ('FI', 'Finland', 0);
INSERT INTO dwh.dim_country VALUES ('FJ', 'Fiji', 0);
INSERT INTO dwh.dim_country VALUES ('FK', 'Falkland Islands', 0);
INSERT INTO dwh.dim_country VALUES ('FM', 'Micronesia', 0);
INSERT INTO dwh.dim_country VALUES ('FO', 'Faroe Islands', 0);
INSERT INTO dwh.dim_country VALUES ('FR', 'France', 0);
INSERT INTO dwh.dim_country VALUES ('GA', 'Gabon', 0);
INSERT INTO dwh.dim_country VALUES ('GB', 'United Kingdom', 0);
INSERT INTO dwh.dim_country VALUES ('GD', 'Grenada', 0);
INSERT INTO dwh.dim_country VALUES ('GE', 'Georgia', 0);
INSERT INTO dwh.dim_country VALUES ('GF', 'French Guiana', 0);
INSERT INTO dwh.dim_country VALUES ('GG', 'Guernsey', 0);
INSERT INTO dwh.dim_country VALUES ('GH', 'Ghana', 0);
INSERT INTO dwh.dim_country VALUES ('GI', 'Gibraltar', 0);
INSERT INTO dwh.dim_country VALUES ('GL', 'Greenland', 0);
INSERT INTO dwh.dim_country VALUES ('GM', 'Gambia', 0);
INSERT INTO dwh.dim_country VALUES ('GN', 'Guinea', 0);
INSERT INTO dwh.dim_country VALUES ('GP', 'Guadeloupe', 0);
INSERT INTO dwh.dim_country VALUES ('GQ', 'Equatorial Guinea', 0);
INSERT INTO dwh.dim_country VALUES ('GR', 'Greece', 0);
INSERT INTO dwh.dim_country VALUES ('GS', 'South Georgia and the South Sandwich Islands', 0);
INSERT INTO dwh.dim_country VALUES ('GT', 'Guatemala', 0);
INSERT INTO dwh.dim_country VALUES ('GU', 'Guam', 0);
INSERT INTO dwh.dim_country VALUES ('GW', 'Guinea-Bissau', 0);
INSERT INTO dwh.dim_country VALUES ('GY', 'Guyana', 0);
INSERT INTO dwh.dim_country VALUES ('HK', 'Hong Kong', 0);
INSERT INTO dwh.dim_country VALUES ('HM', 'Heard Island and McDonald Islands', 0);
INSERT INTO dwh.dim_country VALUES ('HN', 'Honduras', 0);
INSERT INTO dwh.dim_country VALUES ('HR', 'Croatia', 0);
INSERT INTO dwh.dim_country VALUES ('HT', 'Haiti', 0);
INSERT INTO dwh.dim_country VALUES ('HU', 'Hungary', 0);
INSERT INTO dwh.dim_country VALUES ('ID', 'Indonesia', 0);
INSERT INTO dwh.dim_country VALUES ('IE', 'Ireland', 0);
INSERT INTO dwh.dim_country VALUES ('IL', 'Israel', 0);
INSERT INTO dwh.dim_country VALUES ('IM', 'Isle of Man', 0);
INSERT INTO dwh.dim_country VALUES ('IN', 'India', 0);
INSERT INTO dwh.dim_country VALUES ('IO', 'British Indian Ocean Territory', 0);
INSERT INTO dwh.dim_country VALUES ('IQ', 'Iraq', 0);
INSERT INTO dwh.dim_country VALUES ('IR', 'Iran', 0);
INSERT INTO dwh.dim_country VALUES ('IS', 'Iceland', 0);
INSERT INTO dwh.dim_country VALUES ('IT', 'Italy', 0);
INSERT INTO dwh.dim_country VALUES ('JE', 'Jersey', 0);
INSERT INTO dwh.dim_country VALUES ('JM', 'Jamaica', 0);
INSERT INTO dwh.dim_country VALUES ('JO', 'Jordan', 0);
INSERT INTO dwh.dim_country VALUES ('JP', 'Japan', 0);
INSERT INTO dwh.dim_country VALUES ('KE', 'Kenya', 0);
INSERT INTO dwh.dim_country VALUES ('KG', 'Kyrgyzstan', 0);
INSERT INTO dwh.dim_country VALUES ('KH', 'Cambodia', 0);
INSERT INTO dwh.dim_country VALUES ('KI', 'Kiribati', 0);
INSERT INTO dwh.dim_country VALUES ('KM', 'Comoros', 0);
INSERT INTO dwh.dim_country VALUES ('KN', 'Saint Kitts and Nevis', 0);
INSERT INTO dwh.dim_country VALUES ('KP', 'North Korea', 0);
INSERT INTO dwh.dim_country VALUES ('KR', 'South Korea', 0);
INSERT INTO dwh.dim_country VALUES ('KW', 'Kuwait', 0);
INSERT INTO dwh.dim_country VALUES ('KY', 'Cayman Islands', 0);
INSERT INTO dwh.dim_country VALUES ('KZ', 'Kazakhstan', 0);
INSERT INTO dwh.dim_country VALUES ('LA', 'Laos', 0);
INSERT INTO dwh.dim_country VALUES ('LB', 'Lebanon', 0);
INSERT INTO dwh.dim_country VALUES ('LC', 'Saint Lucia', 0);
INSERT INTO dwh.dim_country VALUES ('LI', 'Liechtenstein', 0);
INSERT INTO dwh.dim_country VALUES ('LK', 'Sri Lanka', 0);
INSERT INTO dwh.dim_country VALUES ('LR', 'Liberia', 0);
INSERT INTO dwh.dim_country VALUES ('LS', 'Lesotho', 0);
INSERT INTO dwh.dim_country VALUES ('LT', 'Lithuania', 0);
INSERT INTO dwh.dim_country VALUES ('LU', 'Luxembourg', 0);
INSERT INTO dwh.dim_country VALUES ('LV', 'Latvia', 0);
INSERT INTO dwh.dim_country VALUES ('LY', 'Libya', 0);
INSERT INTO dwh.dim_country VALUES ('MA', 'Morocco', 0);
INSERT INTO dwh.dim_country VALUES ('MC', 'Monaco', 0);
INSERT INTO dwh.dim_country VALUES ('MD', 'Moldova', 0);
INSERT INTO dwh.dim_country VALUES ('ME', 'Montenegro', 0);
INSERT INTO dwh.dim_country VALUES ('MF', 'Saint Martin', 0);
INSERT INTO dwh.dim_country VALUES ('MG', 'Madagascar', 0);
INSERT INTO dwh.dim_country VALUES ('MH', 'Marshall Islands', 0);
INSERT INTO dwh.dim_country VALUES ('MK', 'North Macedonia', 0);
INSERT INTO dwh.dim_country VALUES ('ML', 'Mali', 0);
INSERT INTO dwh.dim_country VALUES ('MM', 'Myanmar', 0);
INSERT INTO dwh.dim_country VALUES ('MN', 'Mongolia', 0);
INSERT INTO dwh.dim_country VALUES ('MO', 'Macao', 0);
INSERT INTO dwh.dim_country VALUES ('MP', 'Northern Mariana Islands', 0);
INSERT INTO dwh.dim_country VALUES ('MQ', 'Martinique', 0);
INSERT INTO dwh.dim_country VALUES ('MR', 'Mauritania', 0);
INSERT INTO dwh.dim_country VALUES ('MS', 'Montserrat', 0);
INSERT INTO dwh.dim_country VALUES ('MT', 'Malta', 0);
INSERT INTO dwh.dim_country VALUES ('MU', 'Mauritius', 0);
INSERT INTO dwh.dim_country VALUES ('MV', 'Maldives', 0);
INSERT INTO dwh.dim_country VALUES ('MW', 'Malawi', 0);
INSERT INTO dwh.dim_country VALUES ('MX', 'Mexico', 0);
INSERT INTO dwh.dim_country VALUES ('MY', 'Malaysia', 0);
INSERT INTO dwh.dim_country VALUES ('MZ', 'Mozambique', 0);
INSERT INTO dwh.dim_country VALUES ('NA', 'Namibia', 0);
INSERT INTO dwh.dim_country VALUES ('NC', 'New Caledonia', 0);
INSERT INTO dwh.dim_country VALUES ('NE', 'Niger', 0);
INSERT INTO dwh.dim_country VALUES ('NF', 'Norfolk Island', 0);
INSERT INTO dwh.dim_country VALUES ('NG', 'Nigeria', 0);
INSERT INTO dwh.dim_country VALUES ('NI', 'Nicaragua', 0);
INSERT INTO dwh.dim_country VALUES ('NL', 'Netherlands', 0);
INSERT INTO dwh.dim_country VALUES ('NO', 'Norway', 0);
INSERT INTO dwh.dim_country VALUES ('NP', 'Nepal', 0);
INSERT INTO dwh.dim_country VALUES ('NR', 'Nauru', 0);
INSERT INTO dwh.dim_country VALUES ('NU', 'Niue', 0);
INSERT INTO dwh.dim_country VALUES ('NZ', 'New Zealand', 0);
INSERT INTO dwh.dim_country VALUES ('OM', 'Oman', 0);
INSERT INTO dwh.dim_country VALUES ('PA', 'Panama', 0);
INSERT INTO dwh.dim_country VALUES ('PE', 'Peru', 0);
INSERT INTO dwh.dim_country VALUES ('PF', 'French Polynesia', 0);
INSERT INTO dwh.dim_country VALUES ('PG', 'Papua New Guinea', 0);
INSERT INTO dwh.dim_country VALUES ('PH', 'Philippines', 0);
INSERT INTO dwh.dim_country VALUES ('PK', 'Pakistan', 0);
INSERT INTO dwh.dim_country VALUES ('PL', 'Poland', 0);
INSERT INTO dwh.dim_country VALUES ('PM', 'Saint Pierre and Miquelon', 0);
INSERT INTO dwh.dim_country VALUES ('PN', 'Pitcairn', 0);
INSERT INTO dwh.dim_country VALUES ('PR', 'Puerto Rico', 0);
INSERT INTO dwh.dim_country VALUES ('PS', 'Palestine', 0);
INSERT INTO dwh.dim_country VALUES ('PT', 'Portugal', 0);
INSERT INTO dwh.dim_country VALUES ('PW', 'Palau', 0);
INSERT INTO dwh.dim_country VALUES ('PY', 'Paraguay', 0);
INSERT INTO dwh.dim_country VALUES ('QA', 'Qatar', 0);
INSERT INTO dwh.dim_country VALUES ('RE', 'Réunion', 0);
INSERT INTO dwh.dim_country VALUES ('RO', 'Romania', 0);
INSERT INTO dwh.dim_country VALUES ('RS', 'Serbia', 0);
INSERT INTO dwh.dim_country VALUES ('RU', 'Russia', 0);
INSERT INTO dwh.dim_country VALUES ('RW', 'Rwanda', 0);
INSERT INTO dwh.dim_country VALUES ('SA', 'Saudi Arabia', 0);
INSERT INTO dwh.dim_country VALUES ('SB', 'Solomon Islands', 0);
INSERT INTO dwh.dim_country VALUES ('SC', 'Seychelles', 0);
INSERT INTO dwh.dim_country VALUES ('SD', 'Sudan', 0);
INSERT INTO dwh.dim_country VALUES ('SE', 'Sweden', 0);
INSERT INTO dwh.dim_country VALUES ('SG', 'Singapore', 0);
INSERT INTO dwh.dim_country VALUES ('SH', 'Saint Helena, Ascension and Tristan da Cunha', 0);
INSERT INTO dwh.dim_country VALUES ('SI', 'Slovenia', 0);
INSERT INTO dwh.dim_country VALUES ('SJ', 'Svalbard and Jan Mayen', 0);
INSERT INTO dwh.dim_country VALUES ('SK', 'Slovakia', 0);
INSERT INTO dwh.dim_country VALUES ('SL', 'Sierra Leone', 0);
INSERT INTO dwh.dim_country VALUES ('SM', 'San Marino', 0);
INSERT INTO dwh.dim_country VALUES ('SN', 'Senegal', 0);
INSERT INTO dwh.dim_country VALUES ('SO', 'Somalia', 0);
INSERT INTO dwh.dim_country VALUES ('SR', 'Suriname', 0);
INSERT INTO dwh.dim_country VALUES ('SS', 'South Sudan', 0);
INSERT INTO dwh.dim_country VALUES ('ST', 'São Tomé and Príncipe', 0);
INSERT INTO dwh.dim_country VALUES ('SV', 'El Salvador', 0);
INSERT INTO dwh.dim_country VALUES ('SX', 'Sint Maarten', 0);
INSERT INTO dwh.dim_country VALUES ('SY', 'Syria', 0);
INSERT INTO dwh.dim_country VALUES ('SZ', 'Eswatini', 0);
INSERT INTO dwh.dim_country VALUES ('TC', 'Turks and Caicos Islands', 0);
INSERT INTO dwh.dim_country VALUES ('TD', 'Chad', 0);
INSERT INTO dwh.dim_country VALUES ('TF', 'French Southern Territories', 0);
INSERT INTO dwh.dim_country VALUES ('TG', 'Togo', 0);
INSERT INTO dwh.dim_country VALUES ('TH', 'Thailand', 0);
INSERT INTO dwh.dim_country VALUES ('TJ', 'Tajikistan', 0);
INSERT INTO dwh.dim_country VALUES ('TK', 'Tokelau', 0);
INSERT INTO dwh.dim_country VALUES ('TL', 'Timor-Leste', 0);
INSERT INTO dwh.dim_country VALUES ('TM', 'Turkmenistan', 0);
INSERT INTO dwh.dim_country VALUES ('TN', 'Tunisia', 0);
INSERT INTO dwh.dim_country VALUES ('TO', 'Tonga', 0);
INSERT INTO dwh.dim_country VALUES ('TR', 'Türkiye', 0);
INSERT INTO dwh.dim_country VALUES ('TT', 'Trinidad and Tobago', 0);
INSERT INTO dwh.dim_country VALUES ('TV', 'Tuvalu', 0);
INSERT INTO dwh.dim_country VALUES ('TW', 'Taiwan', 0);
INSERT INTO dwh.dim_country VALUES ('TZ', 'Tanzania', 0);
INSERT INTO dwh.dim_country VALUES ('UA', 'Ukraine', 0);
INSERT INTO dwh.dim_country VALUES ('UG', 'Uganda', 0);
INSERT INTO dwh.dim_country VALUES ('UM', 'United States Minor Outlying Islands', 0);
INSERT INTO dwh.dim_country VALUES ('US', 'United States', 0);
INSERT INTO dwh.dim_country VALUES ('UY', 'Uruguay', 0);
INSERT INTO dwh.dim_country VALUES ('UZ', 'Uzbekistan', 0);
INSERT INTO dwh.dim_country VALUES ('VA', 'Holy See', 0);
INSERT INTO dwh.dim_country VALUES ('VC', 'Saint Vincent and the Grenadines', 0);
INSERT INTO dwh.dim_country VALUES ('VE', 'Venezuela', 0);
INSERT INTO dwh.dim_country VALUES ('VG', 'British Virgin Islands', 0);
INSERT INTO dwh.dim_country VALUES ('VI', 'U.S. Virgin Islands', 0);
INSERT INTO dwh.dim_country VALUES ('VN', 'Vietnam', 0);
INSERT INTO dwh.dim_country VALUES ('VU', 'Vanuatu', 0);
INSERT INTO dwh.dim_country VALUES ('WF', 'Wallis and Futuna', 0);
INSERT INTO dwh.dim_country VALUES ('WS', 'Samoa', 0);
INSERT INTO dwh.dim_country VALUES ('XK', 'Kosovo', 0);
INSERT INTO dwh.dim_country VALUES ('YE', 'Yemen', 0);
INSERT INTO dwh.dim_country VALUES ('YT', 'Mayotte', 0);
INSERT INTO dwh.dim_country VALUES ('ZA', 'South Africa', 0);
INSERT INTO dwh.dim_country VALUES ('ZM', 'Zambia', 0);
INSERT INTO dwh.dim_country VALUES ('ZW', 'Zimbabwe', 0);
INSERT INTO dwh.dim_country VALUES ('ZZ', 'Unknown', 0);
INSERT INTO dwh.dim_customer VALUES (0, '', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '1900-01-01 00:00:00+00', '2100-01-01 00:00:00+00', true, false, 0, 0, NULL);
INSERT INTO dwh.dim_device VALUES (0, 'Unknown', 0);
INSERT INTO dwh.dim_distribution_center VALUES (0, '', '', NULL, NULL, NULL, false, false, 0);
INSERT INTO dwh.dim_payment_method VALUES (0, '', '', NULL, NULL, false, false, 0);
INSERT INTO dwh.dim_product VALUES (0, '', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '1900-01-01 00:00:00+00', '2100-01-01 00:00:00+00', true, false, 0, 0, NULL);
INSERT INTO dwh.dim_promotion VALUES (0, '', '', NULL, NULL, NULL, NULL, false, false, 0);
INSERT INTO dwh.dim_referer VALUES (0, '-', 0, '336d5ebc-5436-534e-61d1-6e63ddfca327', 0);
INSERT INTO dwh.dim_request VALUES (0, '-', NULL, NULL, 'other', NULL, NULL, '336d5ebc-5436-534e-61d1-6e63ddfca327', 0);
INSERT INTO dwh.dim_traffic_source VALUES (0, 'direct', 'direct', 0);
INSERT INTO dwh.dim_user_agent VALUES (0, '-', 0, '336d5ebc-5436-534e-61d1-6e63ddfca327', 0);
INSERT INTO dwh.dim_web_user VALUES (0, '-', '336d5ebc-5436-534e-61d1-6e63ddfca327', 0);

INSERT INTO dwh.dim_date (date_key, run_id) VALUES (0, 0);
INSERT INTO dwh.dim_date
SELECT
    to_char(day, 'yyyymmdd')::integer, day, extract(year from day), extract(quarter from day),
    extract(month from day), to_char(day, 'FMMonth'), date_trunc('month', day)::date,
    extract(isoyear from day), extract(week from day), extract(day from day), extract(doy from day),
    extract(isodow from day), to_char(day, 'FMDay'), extract(isodow from day) >= 6, 0
FROM (
    SELECT generate_series('1990-01-01'::timestamp, '2040-12-31'::timestamp, '1 day')::date AS day
) AS days;


CREATE TRIGGER tell_delete AFTER DELETE ON audit.file REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_delete AFTER DELETE ON audit.file_part REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_delete AFTER DELETE ON audit.quarantine REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_delete AFTER DELETE ON audit.watermark REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON audit.file FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON audit.file_part FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON audit.quarantine FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON audit.watermark FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_update AFTER UPDATE ON audit.file REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_update AFTER UPDATE ON audit.file_part REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_update AFTER UPDATE ON audit.quarantine REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_update AFTER UPDATE ON audit.watermark REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_before_image();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_company REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_country REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_customer REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_date REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_device REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_distribution_center REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_payment_method REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_product REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_promotion REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_referer REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_request REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_traffic_source REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_user_agent REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.dim_web_user REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_delete AFTER DELETE ON dwh.fact_order_item REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_company FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_country FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_customer FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_date FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_device FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_distribution_center FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_payment_method FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_product FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_promotion FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_referer FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_request FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_traffic_source FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_user_agent FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.dim_web_user FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_truncate BEFORE TRUNCATE ON dwh.fact_order_item FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_company REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_country REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_customer REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_date REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_device REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_distribution_center REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_payment_method REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_product REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_promotion REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_referer REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_request REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_traffic_source REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_user_agent REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.dim_web_user REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

CREATE TRIGGER tell_update AFTER UPDATE ON dwh.fact_order_item REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.keep_change();

ALTER TABLE ONLY audit.check_result
    ADD CONSTRAINT fk_check_result_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.difference
    ADD CONSTRAINT fk_difference_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.file_part
    ADD CONSTRAINT fk_file_part_file_id FOREIGN KEY (file_id) REFERENCES audit.file(file_id);

ALTER TABLE ONLY audit.file_part
    ADD CONSTRAINT fk_file_part_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.file
    ADD CONSTRAINT fk_file_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.load
    ADD CONSTRAINT fk_load_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.outbox
    ADD CONSTRAINT fk_outbox_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.partition_load
    ADD CONSTRAINT fk_partition_load_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.proof
    ADD CONSTRAINT fk_proof_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.quarantine
    ADD CONSTRAINT fk_quarantine_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.run
    ADD CONSTRAINT fk_run_parent_run_id FOREIGN KEY (parent_run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.run
    ADD CONSTRAINT fk_run_resumes_run_id FOREIGN KEY (resumes_run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.watermark
    ADD CONSTRAINT fk_watermark_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);

ALTER TABLE ONLY audit.weblog_month
    ADD CONSTRAINT fk_weblog_month_run_id FOREIGN KEY (run_id) REFERENCES audit.run(run_id);
