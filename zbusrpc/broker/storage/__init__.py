"""The log under a durable topic: records in append-only segments, with a named durability.

    record    one record as bytes [pure]           index     where records stand in a segment [pure]
    files     the seam to the disk                 handles   a bounded number of open files
    segment   one file of records                  salvage   what becomes of a damaged segment
    log       the segments of one topic            retention which segments may go [pure]
    commit    group commit and durability levels   on_loop   the same on an asyncio loop
    check     looks at a log and changes nothing

It knows records and offsets, and neither groups nor sessions nor the network. docs/storage.md draws the format
and names, for each promise, the test that holds it.
"""
