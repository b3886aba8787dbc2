"""Keys of requests and their first answers, kept in the shop for 24 hours."""

from psycopg import AsyncConnection

from api.repositories.statements import statement


class Keys:
    """Idempotency keys, in one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, key: str, request_hash: bytes) -> bool:
        """Take a key for this transaction, after one that is just taking it has ended; False: it is taken."""
        cursor = await self._connection.execute(
            statement("claim_key"), {"key": key, "request_hash": request_hash}, prepare=True
        )
        return cursor.rowcount == 1

    async def read(self, key: str) -> tuple[bytes, bytes] | None:
        """Read the hash of the request that took a key, and its answer."""
        cursor = await self._connection.execute(statement("read_answer"), {"key": key}, prepare=True)
        return await cursor.fetchone()

    async def store(self, key: str, answer: bytes) -> None:
        """Keep the answer for a key of this transaction."""
        await self._connection.execute(
            statement("store_answer"), {"key": key, "answer": answer}, prepare=True
        )

    async def remove_old(self, rows: int) -> int:
        """Remove keys that are older than 24 hours, at most so many; returns how many."""
        cursor = await self._connection.execute(statement("remove_old_keys"), {"rows": rows})
        return cursor.rowcount
