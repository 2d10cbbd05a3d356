"""Blocking calls: a program without an event loop, whose threads share one proxy."""

from concurrent.futures import ThreadPoolExecutor

from anyio.from_thread import start_blocking_portal

from zbusrpc import UsageError, aio, blocking, service
from zbusrpc.testing import running


@service(concurrency=8)
class Primes:
    """Computes in threads."""

    def factor(self, n: int) -> list[int]:
        """Return the prime factors; runs in a thread of the service."""
        for divisor in range(2, n):
            if n % divisor == 0:
                return [divisor, *self.factor(n // divisor)]
        return [n]

    async def is_even(self, n: int) -> bool:
        """Say whether n is even; runs as a task of the service."""
        return n % 2 == 0


def main() -> None:
    """Call from threads; the service runs in the event loop of a background thread."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running(Primes)) as primes:
        print("primes.factor(91) =", primes.factor(91))
        print("blocking(primes.is_even)(4) =", blocking(primes.is_even)(4))
        with ThreadPoolExecutor(16) as threads:
            factors = list(threads.map(primes.factor, range(1000, 1064)))
        print("64 calls from 16 threads, the last:", factors[-1])

        async def in_event_loop() -> None:
            try:
                primes.factor(91)
            except UsageError as error:
                print("in an event loop:", error)
            print("so:", await aio(primes.factor)(91))

        portal.call(in_event_loop)


main()
