"""From ledgers and talks to the finished case: subjects, findings, ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from .. import case as c
from ..capture.packets import number_text
from ..detect import mails, paths
from ..detect.engine import ADDED, Draft, judge, screen
from ..detect.facts import Subject, Value
from ..detect.regular_paths import PATH_SCREEN
from ..detect.rule import RulePack
from ..summary import HANGING, limits, summarize
from ..tcp.path_mtu import UNHEARD_SENDS
from .gathering import Gathered
from .ledgers import Ledgers
from .memory import give_back
from .rows import connection_rows, finding_row, message_rows, passed_over_notes, path_row, seen_twice, silent_rows

_OTHER_VERSION: dict[object, int] = {4: 6, 6: 4}


class Verdict:
    """From ledgers and talks to the finished case: subjects, findings, ids."""

    def __init__(self, run: Gathered, pack: RulePack) -> None:
        run.renumber()
        run.tell_not_judged()
        self.run = run
        self.pack = pack
        self.talks = run.talks
        self.by_key = {t.key: t for t in self.talks}
        self.ledgers = Ledgers(run)
        self._delivered: dict[str | None, list[int]] = {}
        give_back()

    def case(self) -> c.Case:
        run = self.run
        self._stray_icmp()
        self._look_closer()
        weighed = [self._weighed(number, ledger) for number, ledger in sorted(self.ledgers.of.items())]
        self._compare_paths(weighed)
        subjects = [w.subject for w in weighed]
        subjects += self._host_subjects(weighed)
        subjects.append(self._case_subject())
        # of other services (--all-tcp) nothing is asked but what their paths carry
        talks = [t for t in self.talks if self._is_listed(t)] if run.options.all_tcp else self.talks
        subjects += mails.message_subjects(talks, run.points.of, self._screen("message", mails.MESSAGE_SCREEN))
        subjects += mails.connection_subjects(talks, self._screen("connection", mails.CONNECTION_SCREEN))
        subjects += mails.server_subjects(talks, self._screen("server", mails.SERVER_SCREEN), run.options.stripped)
        drafts = judge(self.pack, subjects, silent_at=self._silent_at)
        return self._finish(drafts, weighed)

    def _look_closer(self) -> None:
        """Ledgers for paths on which a rule may fire; the others are silent. Most are alike in what the rules ask for."""
        for ends in {(t.client[0], t.server[0]) for t in self.talks for m in t.mails if _hangs(m)}:
            self.ledgers.between(ends)
        may_fire = self._screen("path", tuple(PATH_SCREEN - ADDED))
        regular = self.ledgers.regular
        answers: dict[tuple[Value, ...], bool] = {}
        for i, facts in enumerate(regular.facts()):
            fires = answers.get(facts)
            if fires is None:
                fires = answers[facts] = may_fire(regular.named(facts))
            if fires and i in self.ledgers.silent:
                self.ledgers.look_at(i)

    def _weighed(self, number: int, ledger: paths.PathLedger) -> paths.Weighed:
        stuck = tuple(dict.fromkeys(m for v in ledger.views for m in v.stuck_messages))
        w = paths.weigh(ledger, stuck)
        w.subject.paths = (number,)
        self._mail_facts(w, ledger)
        return w

    def _silent_at(self, host: str | None) -> Iterator[Subject]:
        """Paths that no rule has anything to say about, from this host or to it: what was delivered there."""
        regular = self.ledgers.regular
        for i in regular.touching(host):
            if i in self.ledgers.silent:
                facts: dict[str, Value] = {"mtu_at_least": regular.largest_delivered[i] or None}
                yield Subject("path", facts, regular.senders[i], regular.receivers[i], paths=(self.ledgers.silent[i],))

    def _delivered_silently(self, sender: str | None) -> list[int]:
        """The largest packets that were delivered on each silent path of this sender."""
        if sender not in self._delivered:
            largest = self.ledgers.regular.largest_delivered
            self._delivered[sender] = [largest[i] for i in self.ledgers.silent_from(sender)]
        return self._delivered[sender]

    def _host_subjects(self, weighed: list[paths.Weighed]) -> list[Subject]:
        """One subject per host that sends data on a path where something was lost."""
        by_sender: dict[str, list[paths.Weighed]] = defaultdict(list)
        for w in weighed:
            by_sender[w.subject.sender or ""].append(w)
        subjects = []
        for sender, own in by_sender.items():
            broken = [w for w in own if w.mtu_below_by_loss is not None]
            if broken:
                # an MTU was tested where something as large as what broke elsewhere was sent
                below = min(w.mtu_below_by_loss or 0 for w in broken)
                tested = [w for w in own if w.mtu_below_by_loss is not None or (w.mtu_at_least or 0) >= below]
                silent = sum(1 for size in self._delivered_silently(sender) if size >= below)
                subjects.append(
                    Subject(
                        kind="host",
                        facts={"sender": sender, "paths_broken": len(broken), "paths_tested": len(tested) + silent},
                        sender=sender,
                        connections=tuple(k for w in broken for k in w.subject.connections),
                        paths=tuple(n for w in broken for n in w.subject.paths),
                        key="host",
                    )
                )
        return subjects

    def _case_subject(self) -> Subject:
        captures = self.run.captures
        records = [m for t in self.talks for m in t.mails]
        return Subject(
            kind="case",
            facts={
                "connections_total": self.run.counts["tcp_connections"],
                "mails_total": len(records),
                "mails_passed": sum(1 for m in records if m.answered),
                "mails_hung": sum(1 for m in records if m.stuck or m.outcome in HANGING),
                "captures": len(captures),
                "captures_incomplete": sum(1 for x in captures if not x.complete),
            },
            key="case",
        )

    def _screen(self, kind: str, known: tuple[str, ...]) -> mails.MayFire:
        return screen(self.pack, kind, known if self.run.options.shortcuts else ())

    def _stray_icmp(self) -> None:
        """ "Too big" that quotes a flow between hosts that we know, but no connection of theirs; and other unreachables."""
        for e in self.run.icmp:
            ledger = self.ledgers.between((number_text(e.quoted_src), number_text(e.quoted_dst)))
            if not e.is_too_big:
                if ledger is not None:
                    ledger.other_errors.append(e)
            elif (e.capture, e.frame) not in self.run.used_icmp:
                ledger = ledger or self.ledgers.first_from(number_text(e.dst))
                if ledger is not None:
                    ledger.stray_icmp.append(e)

    def _mail_facts(self, w: paths.Weighed, ledger: paths.PathLedger) -> None:
        """Which mails of this path passed and which hang, by size of mail and of packet (mail direction only)."""
        records = [
            m for k in ledger.connections for m in self.by_key[k].mails if self.by_key[k].client[0] == ledger.sender
        ]
        records = [m for m in records if m.in_data]
        records.sort(key=lambda m: m.start_ns or 0)
        refused = {"rejected", "deferred"}
        passed = [m for m in records if m.answered and m.outcome not in refused]
        hung = [m for m in records if _hangs(m)]
        f = w.subject.facts
        f["is_mail"] = any(self._is_listed(self.by_key[k]) for k in ledger.connections)
        f["mails_passed"], f["mails_hung"] = len(passed), len(hung)
        if not hung:
            return
        first_hang = min(m.start_ns or 0 for m in hung)
        f["passed_after_first_hang"] = sum(1 for m in passed if (m.start_ns or 0) > first_hang)

        def of(pick: Callable[[list[int]], int], values: list[int | None]) -> int | None:
            known = [v for v in values if v is not None]
            return pick(known) if known else None

        unseen = f.get("smallest_lost_bytes") if f.get("hole_connections") else None

        def needed(m: mails.MailRecord) -> int | None:
            """The mail's largest packet; at the receiver the one that never came, whose size its connection's MSS tells."""
            if m.stuck and isinstance(unseen, int):
                return max(m.largest_packet_bytes or 0, unseen)
            return m.largest_packet_bytes

        extremes = {
            "largest_passed_packet_bytes": of(max, [m.largest_packet_bytes for m in passed]),
            "smallest_hung_packet_bytes": of(min, [needed(m) for m in hung]),
            "largest_passed_mail_bytes": of(max, [m.size for m in passed]),
            "smallest_hung_mail_bytes": of(min, [m.size or m.data_bytes_sent for m in hung]),
        }
        f |= {k: v for k, v in extremes.items() if v is not None}
        packet = extremes["smallest_hung_packet_bytes"]
        size = extremes["smallest_hung_mail_bytes"]
        f["long_mail_in_small_packets"] = any(
            m.size is not None
            and size is not None
            and packet is not None
            and m.size >= size
            and (m.largest_packet_bytes or packet) < packet
            for m in passed
        )

    def _compare_paths(self, weighed: list[paths.Weighed]) -> None:
        """What the same sender's other paths show: large packets that pass elsewhere, or die alike."""
        by_sender: dict[str | None, list[paths.Weighed]] = defaultdict(list)
        for w in weighed:
            by_sender[w.subject.sender].append(w)
        for w in weighed:
            below = w.subject.facts.get("mtu_below")
            if not isinstance(below, int):
                continue
            others = [o for o in by_sender[w.subject.sender] if o is not w]
            delivered = [o.mtu_at_least or 0 for o in others] + self._delivered_silently(w.subject.sender)
            w.subject.facts["other_receivers_large_ok"] = sum(1 for size in delivered if size >= below)
            w.subject.facts["other_receivers_broken"] = sum(1 for o in others if o.mtu_below_by_loss is not None)
        self._compare_families(weighed)
        self._compare_directions(weighed)

    @staticmethod
    def _compare_directions(weighed: list[paths.Weighed]) -> None:
        """Where one direction's data hangs, the acknowledgements that it would have carried hang with it."""
        by_ends = {(w.subject.sender, w.subject.receiver): w for w in weighed}
        for w in weighed:
            other = by_ends.get((w.subject.receiver, w.subject.sender))
            if not w.subject.facts.get("lost_segments") or other is None:
                continue
            f = other.subject.facts
            stuck = f.get("stuck_acked") is False and f.get("stuck_sends", 0) >= UNHEARD_SENDS  # type: ignore[operator]
            hole = f.get("hole_filled") is False
            if (stuck or hole) and set(w.subject.connections) <= set(other.subject.connections):
                w.subject.facts["other_way_stuck"] = True

    def _compare_families(self, weighed: list[paths.Weighed]) -> None:
        """Whether the same two hosts, known by the names in EHLO and greeting, get large packets by the other IP version."""
        bounded = [w for w in weighed if isinstance(w.subject.facts.get("mtu_below"), int)]
        versions = {_OTHER_VERSION[w.subject.facts["ip_version"]] for w in bounded}
        known = [
            (w.subject.sender, w.subject.receiver, w.subject.facts["ip_version"], w.mtu_at_least or 0) for w in weighed
        ]
        regular = self.ledgers.regular
        known += [
            (regular.senders[i], regular.receivers[i], regular.ip_version[i], regular.largest_delivered[i])
            for i in self.ledgers.silent
            if regular.ip_version[i] in versions
        ]
        known = [path for path in known if path[2] in versions]
        if not known:
            return
        names = self._host_names()
        largest: dict[tuple[str | None, str | None, object], int] = defaultdict(int)
        for sender, receiver, version, size in known:
            key = (names.get(sender), names.get(receiver), version)
            largest[key] = max(largest[key], size)
        for w in bounded:
            f = w.subject.facts
            ends = names.get(w.subject.sender), names.get(w.subject.receiver)
            other = (*ends, _OTHER_VERSION[f["ip_version"]])
            if None not in ends and other in largest:
                f["other_family_ok"] = largest[other] >= f["mtu_below"]  # type: ignore[operator]

    def _host_names(self) -> dict[str | None, str]:
        """What hosts call themselves."""
        names: dict[str | None, str] = {}
        for t in self.talks:
            greeted = (t.banner_text or "").split(" ")[0].lower()
            if "." in greeted and not t.masked:
                names[t.server[0]] = greeted
            if t.dialogue.client_name and "." in t.dialogue.client_name:
                names[t.client[0]] = t.dialogue.client_name.lower()
        return names

    # ------------------------------------------------------------ ids and rows

    def _finish(self, drafts: list[Draft], weighed: list[paths.Weighed]) -> c.Case:
        run = self.run
        named = {k for d in drafts for k in d.connections}
        listed = [t for t in self.talks if self._is_listed(t) or t.key in named]
        conn_id = {t.key: i for i, t in enumerate(listed, 1)}
        records = [m for t in listed for m in t.mails]
        mail_id = {m.key: i for i, m in enumerate(records, 1)}
        verdicts: dict[int, tuple[str, Draft]] = {}
        for d in drafts:
            for number in d.paths:
                if d.verdict and number not in verdicts:
                    verdicts[number] = (d.verdict, d)
        case = c.Case(
            captures=run.captures,
            connections=connection_rows(listed),
            messages=message_rows(records, [conn_id[m.talk] for m in records]),
            icmp=sorted(run.icmp, key=lambda e: (e.time_ns, e.capture, e.frame)),
            services=dict(run.services),
            counts=dict(sorted(run.counts.items())),
            interrupted=run.interrupted,
        )
        case.paths = [
            path_row(w.subject.paths[0], ledger, w, verdicts.get(w.subject.paths[0]), conn_id)
            for w, (_, ledger) in zip(weighed, sorted(self.ledgers.of.items()), strict=True)
        ]
        case.paths += silent_rows(self.ledgers, conn_id)
        case.paths = sorted((p for p in case.paths if p.connections), key=lambda p: p.id)
        path_id = {p.id: i for i, p in enumerate(case.paths, 1)}
        for p in case.paths:
            p.id = path_id[p.id]
        case.findings = [finding_row(i, d, conn_id, mail_id, path_id) for i, d in enumerate(drafts, 1)]
        case.summary = summarize(case)
        case.limits = seen_twice(listed, run.points.of) + passed_over_notes(listed, conn_id) + limits(case)
        return case

    def _is_listed(self, t: mails.Talk) -> bool:
        return t.dialogue.is_smtp or t.server[1] in self.run.options.ports


def _hangs(m: mails.MailRecord) -> bool:
    """The answer did not come, and the mail is not simply under way."""
    return m.answered is False and m.in_data and (m.stuck or m.outcome in HANGING)
