-- mart.open_problem: one row per problem that lasts: of which flow, of what kind, since when.
-- inputs: audit.outbox
select
    mail.flow,
    mail.kind,
    mail.created_at as since_at,
    mail.last_occurred_at,
    mail.occurrence_count,
    mail.mail_id
from audit.outbox as mail
where mail.resolved_at is null
