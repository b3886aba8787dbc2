-- name and build date of the GeoIP database that the last web logs were loaded with.
-- inputs: audit.run
select run.parameters ->> 'geoip' as geoip
from audit.run as run
where run.parameters ->> 'geoip' is not null
order by run.run_id desc
limit 1
