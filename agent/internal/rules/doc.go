// Package rules works out what the loaded rules of pf do to the packets from and to the addresses of a table.
//
// The question is whether everything that an address of the block table sends or receives is blocked and
// logged, and if not, which packets pass and which rule passes them. Examples cannot answer it: a pass rule
// for one port is missed by every packet tried on another. So all packets go through the rules at once.
//
// Classes. A rule compares a few properties of a packet with constants: the interface, family, protocol,
// addresses, ports and so on. Each property is an axis. The constants in all rules cut the values of an axis
// into classes that no rule distinguishes: with rules for port 22 and for ports above 1023, ports have the
// classes 0:21, 22, 23:1023 and 1024:65535. What only the kernel knows, such as whether an address is in
// another table, is an axis with the classes no and yes.
//
// Boxes. A set of packets is a box: a set of classes on every axis. The condition of a rule is a box, too. A
// rule splits a box into the part that it matches and, for each axis that it restricts, at most one part that
// it does not match.
//
// Walk. The walk begins with one box that holds all packets of a flow and follows the rules as the kernel
// does: the last match decides, quick ends the evaluation, anchors are entered and left. Each box carries
// its fate: the rule that decides so far, and where it logs. Boxes whose fate a rule cannot change are not
// split. At the end every packet is in exactly one box.
//
// Judgement. The boxes that one rule decides are joined into the smallest box around them, and the axes on
// which that is restricted say which packets pass: "if tcp to port 22", "if IPv6", "if tagged TRUSTED". Each
// axis also knows its usual classes. Where ordinary packets of everybody listed pass, the judgement is Fail;
// where only special ones do (one user, one peer, an inner interface), it is Warn.
//
// Two flows suffice: packets that come in from a listed address, and packets that go out to one. Every
// connection with a listed address begins with one of the two.
package rules
