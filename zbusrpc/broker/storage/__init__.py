"""The log under a durable topic: records in append-only segments, with a named durability.

    record     one record as bytes [pure]           index      where records stand in a segment [pure]
    files      the seam to the disk                 handles    a bounded number of open files
    segment    one file of records                  salvage    what becomes of a damaged segment
    segments   those of one log, and reading them   tail       writing to the last of them
    log        the records of one topic             recovery   opening it
    sync       making segments safe, removing them  retention  which of them may go [pure]
    compaction by key: when, and what takes effect  compaction_job  its work, in a worker
    commit     group commit and durability levels   finding    what is wrong with a log [pure]
    survey     the look opening and checking share  check      looks at a log, and puts it in order
    lock       one process has a data directory
    seams      what the message queue asks of a log memory     a log without a disk
    options    what somebody wants of a log [pure]

It knows records and offsets, and neither groups nor sessions nor the network. docs/storage.md draws the format
and names, for each promise, the test that holds it.
"""
