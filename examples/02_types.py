"""What may be passed: whatever pydantic reads from JSON, checked by the service on arrival."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from zbusrpc import RpcError, connect, service
from zbusrpc.testing import running, running_broker


class Size(Enum):
    """Sizes of cups."""

    SMALL = "S"
    LARGE = "L"


@dataclass
class Line:
    """One line of an order."""

    item: str
    price: Decimal
    size: Size = Size.SMALL


class Receipt(BaseModel):
    """What the customer gets; a pydantic model may set limits of its own."""

    number: UUID
    total: Decimal = Field(ge=0)
    at: datetime
    note: bytes = b""


@service
class Shop:
    """Takes orders."""

    async def order(self, lines: list[Line], *, tip: Decimal | None = None) -> Receipt:
        """Return the receipt of an order."""
        total = sum((line.price for line in lines), tip or Decimal(0))
        return Receipt(number=uuid4(), total=total, at=datetime.now(UTC), note=b"\x00thanks")


async def main() -> None:
    """Order with types, then without them and wrongly."""
    async with running_broker() as broker, running(Shop, broker=broker) as shop:
        receipt = await shop.order([Line("tea", Decimal("2.50"), Size.LARGE)], tip=Decimal("0.50"))
        print("a", type(receipt).__name__, "over", receipt.total, "with note", receipt.note)

        untyped = connect("Shop", broker=broker)
        print("untyped:", (await untyped.order(lines=[{"item": "tea", "price": "1.10"}]))["total"])
        try:
            await untyped.order(lines=[{"item": "tea", "price": "much", "size": "XL"}])
        except RpcError as error:
            print(error)
            for problem in error.details:
                print("  ", problem["loc"], problem["msg"])


asyncio.run(main())
