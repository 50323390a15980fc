// Package pfsim is OpenBSD's packet filter in memory: a [pfioctl.Device] that
// answers requests as /dev/pf does, to the byte and the error number, and that
// gives a verdict on a packet. It is for tests of programs that talk to pf, and
// runs on any system; it needs neither OpenBSD nor root.
//
//	k := pfsim.New(pfsim.Options{})
//	k.SetRunning(true)
//	pf := k.OpenPF()
//
// # What it does as the kernel does
//
// A request comes as its number and the address of its struct. The struct is
// copied in, the pointers in it are followed one element at a time, and what
// cannot be read or written is EFAULT: [MapBuffer] has memory for that. Refusals
// come in the kernel's order (securelevel, mode of the descriptor, size of the
// elements, flags, table, elements), partial effects are those of the kernel,
// and on an error the caller's struct stays as it was.
//
// Of tables there is everything: names and anchors, flags and their life cycle,
// feedback codes and their order, DUMMY, small and negative sizes, negated
// entries, counters, transactions (DIOCXBEGIN, INADEFINE, DIOCXCOMMIT,
// DIOCXROLLBACK), the pools behind the limits table-entries and tables with the
// scratch copies that a request holds while it runs. So are the kernel's traps:
//
//   - A replacement needs old and new entries together below the limit.
//   - DIOCRADDADDRS at the limit never comes back, nor does an address or a
//     table named twice in a request to clear counters. The answer is
//     [ErrHang], and from then on that of every request.
//   - DIOCRADDADDRS returns the feedback of its elements in reverse order, with
//     rests of one element in another.
//   - 0.0.0.0/32 and ::/128 are dropped without a word: the root of the kernel's
//     tree has their place.
//   - Up to 7.7 the limits that the kernel boots with are shown and not
//     enforced; on 7.8 they are from the first load of a ruleset on.
//   - A table of an anchor, even an empty one, hides the one of the main
//     ruleset.
//
// Besides the table requests it knows DIOCSTART, DIOCSTOP, DIOCGETSTATUS,
// DIOCGETLIMIT, DIOCSETLIMIT, those that read rules and anchors (DIOCGETRULES,
// DIOCGETRULE, DIOCXEND, DIOCGETRULESETS, DIOCGETRULESET), DIOCIGETIFACES with the
// interfaces that rules and "set skip on" name, and those of the state table:
// DIOCGETSTATES, and DIOCKILLSTATES by id. All other numbers are unknown to it,
// which is ENODEV, or EACCES through a read-only descriptor, or EPERM at
// securelevel 2.
//
// [Options].Release chooses the release from 6.9 to 8.0: the structs, and what
// the releases do differently in DIOCRADDADDRS, DIOCRADDTABLES, DIOCSETLIMIT,
// DIOCGETRULE and DIOCIGETIFACES, and with names that do not end.
//
// The table requests are held against recorded answers of OpenBSD 7.8's own
// pf_table.c. More recordings can be given to the tests in the environment
// variable PFSIM_TRANSCRIPTS, a directory of *.jsonl or *.jsonl.gz files.
//
// # What pfctl does
//
// [Kernel.LoadRules] and [Kernel.LoadFile] are pfctl -f, all or nothing.
// [Kernel.WriteShow] is pfctl -T show. Rules are a small part of pf.conf: block,
// pass and match, quick, direction, interface, family, protocol, tables or
// prefixes as source and destination, ports, log, anchors. They are
// references that keep tables alive, and can be read back by ioctl.
//
// [Kernel.Verdict] evaluates them on a packet, with the counters that move. It
// neither makes nor looks at states: each packet is taken for the first of its
// connection. The state table holds what [Kernel.AddState] puts there.
//
// # What it costs
//
// An IPv4 entry takes 8 bytes and an IPv6 entry 24, about twice that while a
// request makes new ones. What adds or deletes walks the whole table, as
// DIOCRSETADDRS does in the kernel.
package pfsim
