"""Idempotency keys of requests and their first answers, kept in the shop for 24 hours."""

from psycopg import AsyncConnection

from api.repositories.statements import statement


class Keys:
    """Idempotency keys, in one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, key: str, request_hash: bytes) -> bool:
        """Claim a key for this transaction; False if another request has it. Waits for one that is claiming it."""
        cursor = await self._connection.execute(
            statement("claim_key"), {"key": key, "request_hash": request_hash}, prepare=True
        )
        return cursor.rowcount == 1

    async def read(self, key: str) -> tuple[bytes, bytes] | None:
        """Read the hash of the request that claimed a key, and its answer; None if the key is gone."""
        cursor = await self._connection.execute(statement("read_answer"), {"key": key}, prepare=True)
        return await cursor.fetchone()

    async def store(self, key: str, answer: bytes) -> None:
        """Store the answer for a key that this transaction has claimed."""
        await self._connection.execute(
            statement("store_answer"), {"key": key, "answer": answer}, prepare=True
        )

    async def remove_old(self, rows: int) -> int:
        """Remove keys that are older than 24 hours, at most so many; returns how many."""
        cursor = await self._connection.execute(statement("remove_old_keys"), {"rows": rows})
        return cursor.rowcount
