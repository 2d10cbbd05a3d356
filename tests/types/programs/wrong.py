"""Lines that must be refused: each is marked, and no other line may be."""

from declared import Bank, Calc, InsufficientFunds, Order
from made import Texts

from zbusrpc import Consumer, Producer, RpcError, aio, blocking, connect, mq, options, rpc, service
from zbusrpc.testing import running


async def wrong_arguments(calc: Calc, bank: Bank) -> None:
    """Types, number and names of arguments are checked."""
    await calc.add("1", 2)  # E: a str is no int
    await calc.add(1, 2, 3)  # E: too many
    await calc.add()  # E: too few
    await calc.add(1, c=2)  # E: no such parameter
    await calc.order("tea")  # E: no Order
    await calc.order(Order("tea", "two"))  # E: no int
    calc.factor("91")  # E: a str is no int
    calc.old("x")  # E: keyword-only
    await bank.balance(12)  # E: an int is no str


async def wrong_forms(texts: Texts) -> None:
    """Calls by position and by name are those of the method."""
    await texts.length(text="a")  # E: positional-only
    await texts.list("a", order="up")  # E: a size is required
    await texts.list("a", size="1")  # E: a str is no int
    await texts.join("a", 1)  # E: an int is no str
    await texts.first([1])  # E: the base was given str
    texts.trim(1)  # E: an int is no str


async def wrong_results(calc: Calc) -> None:
    """Results have the type of the annotation."""
    text: str = await calc.add(1, 2)  # E: an int is no str
    number: int = calc.add(1, 2)  # E: not awaited
    numbers: list[str] = calc.factor(91)  # E: a list of int
    await calc.factor(91)  # E: a list cannot be awaited
    print(text, number, numbers)


async def wrong_methods(calc: Calc) -> None:
    """There are no other methods."""
    await calc.subtract(1, 2)  # E: no such method
    await connect(Calc).sub(1, 2)  # E: no such method


async def wrong_colours(calc: Calc) -> None:
    """The twins have the parameters and results of their methods."""
    await aio(calc.factor)("91")  # E: a str is no int
    text: str = await aio(calc.factor)(91)  # E: a list is no str
    blocking(calc.add)("1", 2)  # E: a str is no int
    number: str = blocking(calc.add)(1, 2)  # E: an int is no str
    blocking(calc.factor)(91)  # E: is blocking already
    print(text, number)


def wrong_options(calc: Calc) -> None:
    """Options have names and types, and the proxy keeps its class."""
    options(calc, timeout="2")  # E: no number
    options(calc, tries=3)  # E: no such option
    other: Bank = options(calc, timeout=2.0)  # E: a Calc is no Bank
    connect(Calc, host="localhost")  # E: no such option
    bank: Bank = connect(Calc)  # E: a Calc is no Bank
    connect(12)  # E: neither class nor name
    print(other, bank)


async def wrong_errors(calc: Calc) -> None:
    """Declared errors have the fields that they declare."""
    try:
        await calc.add(1, 2)
    except InsufficientFunds as error:
        text: str = error.missing  # E: an int is no str
        print(text, error.absent)  # E: no such field
    raise InsufficientFunds(mising=1)  # E: no such field


async def wrong_tests() -> None:
    """running() yields the service it was given."""
    async with running(Calc) as calc:
        await calc.add("1")  # E: a str is no int
    async with running(Calc, instance=2) as calc:  # E: no such option
        pass


async def wrong_messages() -> None:
    """Bodies, options and results of messages are checked."""
    producer = Producer("orders", body=Order)
    await producer.send("tea")  # E: no Order
    await producer.send(Order("tea", 2), tags="eu")  # E: no such option
    await producer.send(Order("tea", 2), ttl="1")  # E: no number
    await producer.send_batch([Order("tea", 2), 7])  # E: no Order
    text: str = await producer.send(Order("tea", 2))  # E: a receipt is no str
    receipt: mq.Receipt = producer.send_nowait(Order("tea", 2))  # E: a future
    consumer = Consumer("orders", body=Order, filter="eu.*")
    (message,) = await consumer.fetch(1)
    number: int = message.body  # E: an Order is no int
    await message.ack("confirmed")  # E: keyword-only
    Consumer("orders", leese=1.0)  # E: no such option
    Consumer("orders", lease="1")  # E: no number
    Consumer("orders", start=1.5)  # E: no place
    await mq.declare("orders", durability="forever")  # E: no such level
    mq.sync.declare("orders", kep=1.0)  # E: no such option
    print(text, receipt, number)


async def handle_text(message: mq.ReceivedMessage[str]) -> None:
    """Handle another kind of message."""
    await Consumer("orders", body=Order).run(handle_text)  # E: a handler of str


@service(nam="X")  # E: no such option
class Misspelt:
    """An option of @service with a typing error."""

    @rpc(timeout="2")  # E: no number
    async def method(self) -> None:
        """Return nothing."""

    @rpc(errors=(ValueError,))  # E: no RpcError
    async def errors(self) -> None:
        """Return nothing."""


RpcError(404)  # E: no code
