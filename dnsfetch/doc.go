// Package dnsfetch fetches the address lists of a policy over DNS/TCP.
//
// A list is a DNS name. What it holds is found in one of three layouts, tried in this order:
//
//   - PTR records at the name, each naming a part of the list, and APL records (RFC 3123) at each part;
//   - APL records at the name itself;
//   - A and AAAA records at the name, continued at sibling names beside it (see [Options.Siblings]).
//
// A list comes whole or not at all. Every message is walked by this package's own code and is accepted
// only when it answers exactly the question asked and holds exactly the records that its header counts,
// with nothing left over. A truncated answer, an answer without records and a part that is missing are
// errors, never a short or an empty list. Since a list may change while its parts are being fetched, the
// PTR records are asked for again at the end, and the fetch starts over when they differ.
//
// All of a list comes from one server. When a server fails in any way, the next one takes over the whole
// list; when all have failed on the first port, they are tried on the next port.
//
// # Parts
//
// The names in the PTR records are followed as they are, never made up. Each must lie below the list's own
// name: 001-netb.<list>, not 001-netb.<another list>. The list itself, a name given twice, and a part that
// has PTR records in its turn in place of APL records are errors. Parts are asked for in parallel, a few
// connections with a few queries under way on each, and answers may come in any order. Servers that answer
// one query at a time, or one on each connection, or allow one connection only, are found out and asked so.
//
// # What counts as absent
//
// NXDOMAIN, and NOERROR without records, mean "not in this layout" where another layout is still to be
// tried, and "not in use" at a sibling name. Everywhere else they are the errors [ErrNXDomain] and
// [ErrNoRecords]. An APL record with no items in it is the only way to say that a list is empty, and is
// accepted where [Request.AllowEmpty] allows it. A part of a list may be empty in that way.
//
// # Leniency
//
// APL items are read more leniently than senders may write them (RFC 3123 §4.1, §4.2): trailing zero octets
// are accepted, and bits beyond the prefix are cleared. An address family other than IPv4 and IPv6 is an
// error ([ErrAPL]): a list that cannot be understood in full is not used in part.
package dnsfetch
