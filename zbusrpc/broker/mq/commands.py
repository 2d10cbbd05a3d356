"""Commands: what people and tools do with topics and groups, each a JSON object that names itself.

Each answers with a result or an error when what it says is so. `requests.py` says what a command may hold,
docs/protocol.md what it answers.
"""

from collections.abc import Callable
from typing import Any, Final

from zbusrpc.broker.access.rights import Rights, visible, visible_groups
from zbusrpc.broker.mq import requests
from zbusrpc.broker.mq.dead_letter_queue import Answer, Letters
from zbusrpc.broker.mq.group import Group
from zbusrpc.broker.mq.names import check_choosable, check_name
from zbusrpc.broker.mq.options import GroupOptions
from zbusrpc.broker.mq.reports import (
    PEEK_BYTES_MAX,
    describe_group,
    describe_unreadable,
    show,
    statistics_of,
)
from zbusrpc.broker.mq.starts import check_start, resolve
from zbusrpc.broker.mq.store import Store
from zbusrpc.broker.mq.told import counts_as_told, group_as_told, topic_as_told
from zbusrpc.broker.mq.topic import Topic
from zbusrpc.errors import RpcError


class Commands:
    """Carries out the commands of somebody on a store."""

    def __init__(self, store: Store, rights: Rights | None = None) -> None:
        """Take the store, and the rights of who asks.

        What is listed, and named by errors, goes as far as they do. Whether a command is allowed was seen to before.
        """
        self._store, self._rights = store, rights

    def carry_out(self, command: requests.Command, answer: Answer) -> None:
        """Do what a command says, and tell its result.

        Raises:
            RpcError: it cannot be done; nothing is told.
        """
        if type(command) in _LISTINGS:
            answer(_LISTINGS[type(command)](self, command), None)
        else:
            _COMMANDS[type(command)](self, command, answer)

    # -- topics ------------------------------------------------------------------------------------------

    def _declare(self, command: requests.Declare, answer: Answer) -> None:
        is_new = not self._store.is_known(command.topic)
        if is_new:
            check_name("topic", command.topic)

        def done(topic: Topic | None, error: RpcError | None) -> None:
            told = topic_as_told(topic, self._rights) | {"created": is_new} if topic is not None else None
            answer(told, error)

        options, rights = command.topic_options(), self._rights
        self._store.declare(command.topic, options, update=command.update, done=done, rights=rights)

    def _remove(self, command: requests.Remove, answer: Answer) -> None:
        topic = self._topic(command.topic)
        if command.group is None:
            self._store.remove_topic(topic, lambda error: answer(None, error))
        else:
            group = self._store.group(topic, command.group, self._rights)
            self._store.remove_group(topic, group, lambda error: answer(None, error))

    def _empty(self, command: requests.Empty, answer: Answer) -> None:
        topic = self._topic(command.topic)
        if command.group is None:

            def emptied(count: int, error: RpcError | None) -> None:
                answer(counts_as_told({"removed": count}, self._rights, topic.name), error)

            self._store.empty_topic(topic, emptied)
            return
        group = self._store.group(topic, command.group, self._rights)
        removed = {"removed": self._store.lag_of(topic, group)}
        told_of_group = counts_as_told(removed, self._rights, topic.name, group.name)
        self._store.seek(topic, group, "newest", lambda error: answer(told_of_group, error))

    # -- listings ----------------------------------------------------------------------------------------

    def _list(self, command: requests.ListTopics) -> Any:
        topics, unreadable = self._store.topics, self._store.unreadable
        names = visible(self._rights, sorted(topics.keys() | unreadable.keys()))
        return [
            topic_as_told(topics[name], self._rights) if name in topics else describe_unreadable(unreadable[name])
            for name in names
            if command.match in name
        ]

    def _describe(self, command: requests.DescribeTopic, answer: Answer) -> None:
        topic, store = self._topic(command.topic), self._store

        def counted() -> None:
            names = visible_groups(self._rights, topic.name, sorted(topic.groups))
            groups = [self._describe_group(topic, topic.groups[name]) for name in names]
            told = topic_as_told(topic, self._rights)
            answer(told | {"groups": groups, "journal_fails_because": store.journal.fails_because}, None)

        letters = store.topics.get(store.dead_letter_name(topic))
        if letters is None:
            counted()
        else:
            store.letter_counts.when_counted(letters, counted)

    def _describe_group(self, topic: Topic, group: Group) -> dict[str, Any]:
        store = self._store
        said = describe_group(topic, group, lag=store.lag_of(topic, group), letters=store.letters_of(topic, group))
        return group_as_told(said, self._rights)

    def _stats(self, command: requests.Stats) -> Any:
        failing = {"journals_failing": int(self._store.journal.fails_because is not None)}
        return statistics_of(self._visible(), self._rights) | failing

    def _visible(self) -> list[Topic]:
        """Return the topics that who asks may know of, by name."""
        return [self._store.topics[name] for name in visible(self._rights, sorted(self._store.topics))]

    # -- groups ------------------------------------------------------------------------------------------

    def _declare_group(self, command: requests.DeclareGroup, answer: Answer) -> None:
        topic = self._topic(command.topic)
        self._store.check_free(topic, command.group)
        check_start(topic, command.start, self._rights)  # also where the group is there, and begins no more
        given = command.group_options()
        group = topic.groups.get(command.group)

        def told(created: bool) -> Callable[[Group | None, RpcError | None], None]:
            def done(made: Group | None, error: RpcError | None) -> None:
                told = self._describe_group(topic, made) | {"created": created} if made is not None else None
                answer(told, error)

            return done

        if group is None:
            check_choosable(command.group)
            options = GroupOptions(**given)
            start, done = command.start or "oldest", told(created=True)
            self._store.create_group(topic, command.group, options, start, done, self._rights)
        elif command.update:
            self._store.change_group(group, given, lambda error: told(created=False)(None if error else group, error))
        else:
            self._store.check_group(topic, group, given)
            self._store.when_started(group, told(created=False))

    def _pause(self, command: requests.Pause, answer: Answer) -> None:
        topic = self._topic(command.topic)
        group = self._store.group(topic, command.group, self._rights)
        paused = {"paused": command.command == "pause"}
        self._store.change_group(group, paused, lambda error: answer(None, error))

    def _seek(self, command: requests.Seek, answer: Answer) -> None:
        topic = self._topic(command.topic)
        group = self._store.group(topic, command.group, self._rights)
        place: dict[str, int] = {}
        moved = self._store.seek(topic, group, command.start, lambda error: answer(place, error), rights=self._rights)
        place |= counts_as_told(moved._asdict(), self._rights, topic.name, group.name)

    # -- messages ----------------------------------------------------------------------------------------

    def _peek(self, command: requests.Peek, answer: Answer) -> None:
        topic = self._topic(command.topic)
        offset, _ = resolve(topic, command.start or "oldest", self._rights)
        answer(show(topic, offset, command.count, command.filter, command.body_bytes_max), None)

    def _dead_letters(self, command: requests.DeadLetters, answer: Answer) -> None:
        letters = self._letters(command.topic)
        if letters is None:
            answer({"topic": "", "messages": [], "next_offset": 0, "end_offset": 0}, None)
            return
        offset, _ = resolve(letters.topic, command.start or "oldest", self._rights)
        shown = show(letters.topic, offset, command.count, "", PEEK_BYTES_MAX, is_wanted=letters.is_there)
        answer({"topic": letters.topic.name, **shown}, None)

    def _retry_dead(self, command: requests.RetryDead, answer: Answer) -> None:
        letters = self._letters(command.topic)
        if letters is None:
            answer({"retried": 0, "left": [], "next_offset": 0, "end_offset": 0}, None)
        else:
            letters.retry(command, answer, rights=self._rights)

    def _purge_dead(self, command: requests.PurgeDead, answer: Answer) -> None:
        letters = self._letters(command.topic)
        if letters is None:
            answer({"purged": 0}, None)
        else:
            letters.purge(command.offsets, answer)

    # -- steps that several commands share ---------------------------------------------------------------

    def _topic(self, name: str) -> Topic:
        topic = self._store.topics.get(name)  # a dead-letter topic may be called longer than others
        return topic or self._store.topic(check_name("topic", name), self._rights)

    def _letters(self, name: str) -> Letters | None:
        """Return the dead letters of a topic, or None while there were none.

        Raises:
            RpcError: NOT_FOUND, or INTERNAL where they cannot be read.
        """
        name = self._store.dead_letter_name(self._topic(name))
        target = self._store.topics.get(name)
        if target is None:
            self._store.unreadable.check(name)
            return None
        return Letters(self._store, target)


_COMMANDS: Final[dict[type, Callable[[Commands, Any, Answer], None]]] = {
    requests.Declare: Commands._declare,
    requests.DescribeTopic: Commands._describe,
    requests.DeclareGroup: Commands._declare_group,
    requests.Remove: Commands._remove,
    requests.Empty: Commands._empty,
    requests.Pause: Commands._pause,
    requests.Seek: Commands._seek,
    requests.Peek: Commands._peek,
    requests.DeadLetters: Commands._dead_letters,
    requests.RetryDead: Commands._retry_dead,
    requests.PurgeDead: Commands._purge_dead,
}
_LISTINGS: Final[dict[type, Callable[[Commands, Any], Any]]] = {
    requests.ListTopics: Commands._list,
    requests.Stats: Commands._stats,
}
