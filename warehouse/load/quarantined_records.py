"""Resolve quarantine entries of a feed's records that a run reads in a later version, or replays."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import same_key
from warehouse.extract.staging_tables import batch_table
from warehouse.feeds.staged import StagedFeed
from warehouse.feeds.versions import remove_rows_without_record
from warehouse.load.record_entries import CHANGES
from warehouse.sources.feed import FILE_ID, LINE

# Condition that the record of an entry was read before the one that is replayed. A record that is refused again gets a
# new entry for the same line, so the time that it was read is that of the line's first entry.
_IS_EARLIER = """
    ((select min(run_id) from audit.quarantine as first
        where first.file_id = waiting.file_id and first.line_number = waiting.line_number),
        waiting.file_id, waiting.line_number)
    < ((select min(run_id) from audit.quarantine as first
        where first.file_id = batch.{file_id} and first.line_number = batch.{line}), batch.{file_id}, batch.{line})
"""
# Condition that the mirror has a later version of a record that is replayed with another key than its entry's: one with
# the entry's key would have superseded the entry.
_IS_LATER = """
    case
        -- The mirror's row was replayed, too, so its run did not read it from the file: its place decides.
        when exists (
            select from audit.file_read as read
            where read.run_id = mirror._run_id and read.file_id = mirror.{file_id} and read.is_replay
        )
        then mirror._run_id >= entry.run_id and (mirror.{file_id}, mirror.{line}) > (batch.{file_id}, batch.{line})
        -- A later run has read it, wherever it is in the files, since files grow.
        else (mirror._run_id, mirror.{file_id}, mirror.{line}) > (entry.run_id, batch.{file_id}, batch.{line})
    end
"""
# Condition that a staged record was read before, in the earlier content with which its file begins.
_IS_KNOWN = "batch.{file_id} = known.file_id and batch.{line} <= known.until"


class QuarantinedRecords:
    """The quarantine entries of records that are staged; what is resolved is added to CHANGES."""

    def __init__(self, connection: psycopg.Connection, run_id: int, staged: StagedFeed) -> None:
        self._connection, self._run_id, self._staged = connection, run_id, staged
        self._source, self._record = staged.source, staged.source.record

    def resolve_replayed(self) -> None:
        """Resolve the quarantine entries that are replayed: their records count as loaded, unless they fail again."""
        self._connection.execute(
            sql.SQL(
                """
                with replayed as (
                    update audit.quarantine
                    set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = 'replayed'
                    where quarantine_id = any({ids}) and resolved_at is null returning file_id
                )

                insert into {changes} (file_id, rows_quarantined, rows_loaded) select file_id, -1, 1 from replayed
                """
            ).format(
                run_id=sql.Literal(self._run_id),
                ids=sql.Literal(list(self._staged.replayed)),
                changes=CHANGES,
            )
        )

    def supersede_outdated(self) -> None:
        """Remove replayed records from staging of which the mirror has a later version, and supersede their entries."""
        place = {"file_id": sql.Identifier(FILE_ID), "line": sql.Identifier(LINE)}
        self._connection.execute(
            sql.SQL(
                """
                with outdated as (
                    delete from {batch} as batch using {mirror} as mirror, audit.quarantine as entry
                    where {same} and not mirror._is_deleted and entry.quarantine_id = any({ids})
                        and entry.file_id = batch.{file_id} and entry.line_number = batch.{line}
                        and ({has_its_key}) is not true and {is_later}
                    returning entry.quarantine_id, entry.file_id
                ),

                resolved as (
                    update audit.quarantine as entry set resolution = 'superseded' from outdated
                    where entry.quarantine_id = outdated.quarantine_id
                )

                insert into {changes} (file_id, rows_loaded, rows_superseded) select file_id, -1, 1 from outdated
                """
            ).format(
                **place,
                batch=batch_table(self._record),
                mirror=sql.Identifier("raw", self._record.mirror),
                same=same_key(self._record.key, "batch", "mirror"),
                ids=sql.Literal(list(self._staged.replayed)),
                has_its_key=self._has_key("entry"),
                is_later=sql.SQL(_IS_LATER).format(**place),
                changes=CHANGES,
            )
        )
        remove_rows_without_record(self._connection, self._source)

    def remove_known(self) -> None:
        """Remove records from staging that an earlier content of their file had, and of which the mirror has a later
        version: a list to which rows were appended is read from its beginning, but says nothing new about the others.
        """
        if not any(file.known_until for file in self._staged.files):
            return
        place = {"file_id": sql.Identifier(FILE_ID), "line": sql.Identifier(LINE)}
        removed = self._connection.execute(
            sql.SQL(
                """
                with outdated as (
                    delete from {batch} as batch using {mirror} as mirror, {known} as known
                    where {same} and not mirror._is_deleted and {is_known}
                        and (mirror.{file_id}, mirror.{line}) <> (known.begins_as, batch.{line})
                        -- what was refused then is judged again: see keep_decisions
                        and not exists (
                            select from audit.quarantine as entry
                            where entry.file_id = known.begins_as and entry.line_number = batch.{line}
                        )
                    returning batch.{file_id}
                )

                insert into {changes} (file_id, rows_loaded, rows_superseded)
                select {file_id}, -count(*), count(*) from outdated group by {file_id}
                """
            ).format(
                **place,
                batch=batch_table(self._record),
                mirror=sql.Identifier("raw", self._record.mirror),
                known=self._known(),
                is_known=sql.SQL(_IS_KNOWN).format(**place),
                same=same_key(self._record.key, "batch", "mirror"),
                changes=CHANGES,
            )
        ).rowcount
        if removed:
            remove_rows_without_record(self._connection, self._source)

    def _known(self) -> sql.Composable:
        """Subquery of the files that begin with an earlier content, and the last line of it."""
        files = [file for file in self._staged.files if file.known_until]
        return sql.SQL(
            "(select * from unnest({}::integer[], {}::integer[], {}::bigint[]) as one (file_id, begins_as, until))"
        ).format(
            *(
                sql.Literal(numbers)
                for numbers in (
                    [file.file_id for file in files],
                    [file.found.begins_as for file in files],
                    [file.known_until for file in files],
                )
            )
        )

    def replace_refused(self) -> None:
        """Mark replayed entries as replaced if their record was refused again and has a new entry."""
        self._connection.execute(
            """
            update audit.quarantine as entry set resolution = 'replaced'
            where entry.quarantine_id = any(%s) and exists (
                select from audit.quarantine as again
                where again.file_id = entry.file_id and again.line_number = entry.line_number
                    and again.run_id = %s and again.quarantine_id > entry.quarantine_id
            )
            """,
            [list(self._staged.replayed), self._run_id],
        )

    def supersede_earlier(self) -> None:
        """Resolve quarantine entries of records of which a later version was read."""
        self._connection.execute(
            sql.SQL(
                """
                with superseded as (
                    update audit.quarantine as waiting
                    set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = 'superseded'
                    where waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
                        and exists (
                            select from {batch} as batch
                            where {has_its_key} and {is_earlier} and not exists (
                                select from {known} as known
                                where {is_known} and waiting.file_id <> known.begins_as
                            )
                        )
                    returning file_id
                )

                insert into {changes} (file_id, rows_quarantined, rows_superseded) select file_id, -1, 1 from superseded
                """
            ).format(
                run_id=sql.Literal(self._run_id),
                source=sql.Literal(self._source.name),
                entity=sql.Literal(self._record.mirror),
                has_its_key=self._has_key("waiting"),
                batch=batch_table(self._record),
                known=self._known(),
                is_known=sql.SQL(_IS_KNOWN).format(
                    file_id=sql.Identifier(FILE_ID), line=sql.Identifier(LINE)
                ),
                # Records that are read from files now are later than all quarantined ones, but those that were read
                # before: their file has gone on.
                is_earlier=sql.SQL(_IS_EARLIER if self._staged.replayed else "true").format(
                    file_id=sql.Identifier(FILE_ID), line=sql.Identifier(LINE)
                ),
                changes=CHANGES,
            )
        )

    def _has_key(self, entry: str) -> sql.Composable:
        """Condition that an entry has the staged record's key; compared by type, since 1 and 1.0 are equal."""

        def value(place: int, kind: str) -> sql.Composable:
            text = sql.SQL("{}.row_key[{}]").format(sql.Identifier(entry), sql.Literal(place))
            if kind == "text":
                return text
            # The key's declared type may have been another one when the entry was inserted.
            return sql.SQL("case when pg_input_is_valid({0}, {1}) then {0}::{2} end").format(
                text, sql.Literal(kind), sql.SQL(kind)
            )

        return sql.SQL(" and ").join(
            sql.SQL("{} = batch.{}").format(value(place, self._record.columns[name]), sql.Identifier(name))
            for place, name in enumerate(self._record.key, start=1)
        )
