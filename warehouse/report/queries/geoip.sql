-- which GeoIP database told the countries of the last web logs, as its name and build date.
-- inputs: audit.run
select run.parameters ->> 'geoip' as geoip
from audit.run as run
where run.parameters ->> 'geoip' is not null
order by run.run_id desc
limit 1
