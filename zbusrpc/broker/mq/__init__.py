"""The message queue: topics whose messages are stored, and consume groups that share or repeat them.

    names, filters, options   what topics and groups may be called, ask for and promise
    topic       a log with its producers: receipts, duplicates, what can be read
    duplicates  the ids of late messages
    group       one place in a log: what was read, what is in flight, what comes again
    delivery    one message between being read and being done
    subscription  one session that takes messages of one group
    journal     where groups stand, on disk
    dead_letters  what becomes of messages that nobody could handle
    catalog     the topics of a data directory
    backend     the seam to where all of it is kept: a data directory, or memory
    commands    what people and tools ask for, as JSON
    queues      all of it together: the messages of sessions in, messages to sessions out
    scheduler   the seam to time, turns and threads

Storage knows records, this package groups; neither knows the network. docs/guarantees.md says what is promised.
"""
