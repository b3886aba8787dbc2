"""Questions that an auditor asks of a star: to each, nobody may be the answer."""

from tests.pipeline import Pipeline, Row

WITH_HISTORY = {
    "versions that begin after they end": "select {id} from dwh.{dim} where valid_from >= valid_to",
    "surrogate keys that are there twice": "select {key} from dwh.{dim} group by {key} having count(*) > 1",
    "versions that are current and end, or do not end and are not current": """
        select {id} from dwh.{dim} where is_current <> (valid_to = '2100-01-01+00')""",
    "versions that overlap": """
        select one.{id} from dwh.{dim} as one
        inner join dwh.{dim} as other on one.{id} = other.{id} and one.source_system = other.source_system
        where one.{key} <> other.{key}
            and tstzrange(one.valid_from, one.valid_to) && tstzrange(other.valid_from, other.valid_to)""",
    "first versions that do not hold since ever": """
        select {id} from dwh.{dim} group by {id}, source_system having min(valid_from) > '1900-01-01+00'""",
    "members that are current and gone, or there and not current": """
        select coalesce(member.{id}, mirror.id::text) from raw.shop_{entity} as mirror
        full join (select {id} from dwh.{dim} where is_current and not is_inferred and {key} > 0) as member
            on member.{id} = mirror.id::text
        where (member.{id} is null) <> (mirror.id is null or mirror._is_deleted)
            and array[coalesce(member.{id}, mirror.id::text)] not in (
                select row_key from audit.quarantine where entity = '{entity}' and resolved_at is null
            )""",
    "holes in the life of a member that never vanished": """
        select {id} from (
            select {id}, valid_to, expired_by_run_id,
                lead(valid_from) over life as next_from, lead(run_id) over life as next_run
            from dwh.{dim} window life as (partition by {id}, source_system order by valid_from)
        ) as version
        where next_from > valid_to and next_run <= expired_by_run_id""",
    "versions that end without a run that ended them": """
        select {id} from dwh.{dim} where is_current = (expired_by_run_id is not null) and not is_inferred""",
    "rows of runs that did not succeed": """
        select {id} from dwh.{dim} as version
        left join audit.run on run.run_id in (version.run_id, version.expired_by_run_id)
        where version.{key} > 0 and run.status is distinct from 'succeeded'""",
    "two versions in a row that say the same": """
        select {id} from (
            select {id}, row({tracked})::text as said, run_id, valid_from,
                lag(row({tracked})::text) over life as said_before, lag(valid_to) over life as before_to,
                lag(expired_by_run_id) over life as closed_by
            from dwh.{dim} where not is_inferred window life as (partition by {id}, source_system order by valid_from)
        ) as version
        -- a member that vanished, and came back to a version that a fact's line had inferred, says the same again
        where said = said_before and valid_from = before_to and run_id <= closed_by""",
}

FACT = {
    "facts whose versions were not valid when it happened": """
        select order_id, line_id from dwh.fact_order_item as fact
        inner join dwh.dim_customer as customer using (customer_key)
        inner join dwh.dim_product as product using (product_key)
        inner join dwh.dim_company as company using (company_key)
        where (customer_key > 0 and not fact.ordered_at <@ tstzrange(customer.valid_from, customer.valid_to))
            or (product_key > 0 and not fact.ordered_at <@ tstzrange(product.valid_from, product.valid_to))
            or (company_key > 0 and not fact.ordered_at <@ tstzrange(company.valid_from, company.valid_to))""",
    "facts of another customer, product or seller than the shop's": """
        select fact.order_id, fact.line_id from dwh.fact_order_item as fact
        inner join raw.shop_order_item as item
            on fact.order_id = item.sales_order_id::text and fact.line_id = item.line_number::text
        inner join raw.shop_sales_order as sales_order on item.sales_order_id = sales_order.id
        inner join dwh.dim_customer as customer using (customer_key)
        inner join dwh.dim_product as product using (product_key)
        inner join dwh.dim_company as company using (company_key)
        where customer.customer_id is distinct from sales_order.customer_id::text
            or product.product_id is distinct from item.product_id::text
            or company.company_id is distinct from coalesce(product.company_id, '')
            or fact.ordered_at is distinct from sales_order.ordered_at
            or fact.currency is distinct from product.currency""",
    "facts that a join with its dimensions loses or doubles": """
        select order_id, line_id from dwh.fact_order_item as fact
        left join dwh.dim_customer using (customer_key) left join dwh.dim_product using (product_key)
        left join dwh.dim_company using (company_key) left join dwh.dim_promotion using (promotion_key)
        left join dwh.dim_payment_method using (payment_method_key)
        left join dwh.dim_distribution_center using (distribution_center_key)
        left join dwh.dim_date as ordered on fact.ordered_date_key = ordered.date_key
        left join dwh.dim_date as returned on fact.returned_date_key = returned.date_key
        group by order_id, line_id
        having count(*) <> 1 or bool_or(
            dim_customer.customer_id is null or dim_product.product_id is null or dim_company.company_id is null
            or dim_promotion.promotion_id is null or dim_payment_method.payment_method_id is null
            or dim_distribution_center.distribution_center_id is null
            or ordered.date is distinct from (fact.ordered_at at time zone 'UTC')::date
            or returned.date is distinct from (fact.returned_at at time zone 'UTC')::date
        )""",
    "lines that are neither published nor in quarantine, or both and current": """
        select item.sales_order_id, item.line_number from raw.shop_order_item as item
        left join dwh.fact_order_item as fact
            on fact.order_id = item.sales_order_id::text and fact.line_id = item.line_number::text
        left join audit.quarantine as waiting on waiting.resolved_at is null and waiting.entity = 'order_item'
            and waiting.row_key = array[item.sales_order_id::text, item.line_number::text]
        where not item._is_deleted and (fact.order_id is null) = (waiting.quarantine_id is null)
            and (fact.order_id is null or row(fact.quantity, fact.status, fact.ordered_at) is not distinct from row(
                (waiting.row_data ->> 'quantity')::numeric, waiting.row_data ->> 'status',
                (waiting.row_data ->> 'ordered_at')::timestamptz
            ))""",
    "facts and quarantined lines that the shop does not have": """
        select key from (
            select array[order_id, line_id] as key from dwh.fact_order_item
            union all select row_key from audit.quarantine where resolved_at is null and entity = 'order_item'
        ) as known
        left join raw.shop_order_item as item
            on known.key = array[item.sales_order_id::text, item.line_number::text] and not item._is_deleted
        where item.line_number is null""",
    "amounts that are not the line's": """
        select order_id, line_id from dwh.fact_order_item as fact
        inner join raw.shop_order_item as item
            on fact.order_id = item.sales_order_id::text and fact.line_id = item.line_number::text
        left join audit.quarantine as waiting on waiting.resolved_at is null and waiting.entity = 'order_item'
            and waiting.row_key = array[fact.order_id, fact.line_id]
        where waiting.quarantine_id is null
            and row(gross_amount, fact.discount_amount, net_amount, profit_amount, fact.status, fact.returned_at)
            is distinct from row(
                item.quantity * item.unit_price, item.discount_amount,
                item.quantity * item.unit_price - item.discount_amount,
                item.quantity * (item.unit_price - item.unit_price_default) - item.discount_amount, item.status,
                item.returned_at
            )""",
}
TRACKED = {
    "company": "cuit, name, country",
    "customer": "document_number, name, birth_date, country, state, latitude, longitude, loyalty_tier",
    "product": "company_id, name, category, brand, price_default_amount, price_amount, currency",
}
NOW = {
    "company": "select id::text, cuit, name, country from company",
    "customer": "select id::text, name, country, state, loyalty_tier, email from customer",
    "product": "select p.id::text, p.name, c.name, b.name, p.price, p.company_id::text "
    "from product p join category c on c.id = category_id left join brand b on b.id = brand_id",
}
CURRENT = {
    "company": "company_id, cuit, name, country",
    "customer": "customer_id, name, country, state, loyalty_tier, email",
    "product": "product_id, name, category, brand, price_amount, company_id",
}


def offenders(shop: Pipeline) -> dict[str, list[Row]]:
    """By question, those that give the wrong answer."""
    found: dict[str, list[Row]] = {}
    for entity, tracked in TRACKED.items():
        names = {"entity": entity, "dim": f"dim_{entity}", "id": f"{entity}_id", "key": f"{entity}_key"}
        for question, query in WITH_HISTORY.items():
            found[f"{question}: {entity}"] = shop.rows(query.format(**names, tracked=tracked))
        refused = {
            key for (key,) in shop.rows(
                "select row_key[1] from audit.quarantine where entity = %s and resolved_at is null", entity
            )
        }  # fmt: skip
        now = shop.shop.execute(NOW[entity].encode()).fetchall()
        members = f"select {CURRENT[entity]} from dwh.dim_{entity} where is_current and {entity}_key > 0"
        current = shop.warehouse.execute(f"{members} and not is_inferred".encode()).fetchall()
        found[f"accepted members that are not as the shop has them: {entity}"] = sorted(
            (member for member in set(now) ^ set(current) if member[0] not in refused), key=repr
        )
    for question, query in FACT.items():
        found[question] = shop.rows(query)
    return {question: rows for question, rows in found.items() if rows}
