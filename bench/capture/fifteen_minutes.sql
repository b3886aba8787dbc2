-- Simulate that fifteen minutes have passed since the last run of the shop: how much the next run verifies depends on it.
-- The times of the last verification are moved back; the window of the cursor stays where it is.
set session_replication_role = replica; -- not a change to be logged for undo

create temp table passed as
select interval '15 minutes' - (clock_timestamp() - max(captured_at)) as by from audit.watermark where source = 'shop';

update audit.key_range set verified_at = verified_at - passed.by from passed where source = 'shop';

update staging.source_checksum set captured_at = captured_at - passed.by from passed where source = 'shop';

update audit.verification set captured_at = captured_at - passed.by from passed where source = 'shop';

update audit.watermark set
    captured_at = captured_at - passed.by, complete_at = complete_at - passed.by,
    rotation_started_at = rotation_started_at - passed.by
from passed
where source = 'shop';
