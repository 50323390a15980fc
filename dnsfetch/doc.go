// Package dnsfetch fetches the address lists of a policy over DNS/TCP.
//
// A list is a DNS name. Its entries are found in one of three layouts, tried in this order:
//
//   - PTR records at the name, each naming a part of the list, and APL records (RFC 3123) at each part;
//   - APL records at the name itself;
//   - A and AAAA records at the name, continued at sibling names beside it (see [Options.Siblings]).
//
// A list is fetched as a whole or not at all. A message is accepted only if it answers exactly the
// question asked and holds exactly the records that its header counts, with nothing left over. A
// truncated answer, and a part that is missing, are errors, never a short or an empty list. Since a
// list may change while its parts are being fetched, the PTR records are asked for again at the end,
// and the fetch starts over when they differ, three times at most.
//
// All of a list comes from one server. When a server fails in any way, the whole list is fetched from
// the next one; when all have failed on the first port, they are tried on the next port.
//
// # Parts
//
// The names in the PTR records are followed literally, never made up. Each must lie below the list's own
// name: 001-netb.<list>, not 001-netb.<another list>. The list itself, a name given twice, and a part
// that has PTR records instead of APL records are errors.
//
// # Progress
//
// A server is asked over one connection, with a few queries under way; answers may come in any order.
// If it closes the connection, or answers one query at a time, the client reconnects, and asks for what
// has not come. Each whole answer is progress. A server has failed when no answer came for
// [Options.Timeout], or when several connections in a row broke without an answer (three at the start,
// eight once it has answered); a server that cannot be connected to at all has failed at once. So a
// slow list is fetched as long as answers keep coming, but no longer than [Options.ListTimeout], an
// hour by default.
//
// # Lists that do not exist
//
// NXDOMAIN, and NOERROR without records, mean "not in this layout" where another layout is still to be
// tried, and "not in use" at a sibling name. A list for which a server has no records in any layout is
// an error, and its kind distinguishes absent from failed: only if every server that was reached gave
// an authoritative answer (AA) to that effect, [Error.Kind] is [KindNXDomain] or [KindNoData]. A list
// with an APL record without items is explicitly empty. It is accepted where [Request.AllowEmpty] is set,
// and else the error is of [KindEmpty]. A part of a list may be empty in that way.
//
// # Leniency
//
// APL items are read more leniently than senders may write them (RFC 3123 §4.1, §4.2): trailing zero
// octets are accepted, and bits beyond the prefix are cleared. An address family other than IPv4 and
// IPv6 is an error ([ErrAnswer]): a list that cannot be understood in full is not used in part.
package dnsfetch
