// Package dnstest is a policy server for tests and demonstrations: it serves
// lists of address prefixes over DNS/TCP on a loopback address, in every
// layout that package dnsfetch reads, and breaks its answers in every way that
// dnsfetch must withstand.
//
// Start starts a server; Set, at any time, gives it lists; Fail makes chosen
// answers go wrong; Queries and Stats return what was asked:
//
//	srv, err := dnstest.Start(dnstest.Options{})
//	if err != nil {
//		return err
//	}
//	defer srv.Close()
//	err = srv.Set(dnstest.List{Name: "block.example", Entries: entries})
//	…
//	srv.Fail(dnstest.On{List: "block.example", Part: 2}, dnstest.Refused)
//
// A list is packed once, when it is set; an answer is one gathered write of
// what was packed, so that a list of a million entries is served as fast as
// the network stack takes it.
//
// # Layouts
//
// A list is laid out in one of dnsfetch's three layouts. LayoutParts: the name
// answers a PTR query with the names of its parts, and each part answers an APL
// query (RFC 3123). LayoutAPL: the name itself answers the APL query.
// LayoutAddresses: the name answers A and AAAA queries, and names beside it
// (siblings) continue where one answer would not fit in the 65,535 bytes of a
// DNS message over TCP.
//
// # Faults
//
// A Fault is a small value; an On selects the answers that it affects: which list,
// which of its parts, which type of question, only the nth time. They are
// made for tables of test cases:
//
//	{"part missing", dnstest.On{Part: 2}, dnstest.NXDomain, dnsfetch.ErrNXDomain},
//	{"connection cut once", dnstest.On{Part: 1, Nth: 1}, dnstest.CutMessage{After: 100}, dnsfetch.ErrCut},
//
// A list that changes while it is fetched is the fault Then with a call of Set;
// a server that refuses connections is one that is Down; a missing list
// is one that was not set, or was removed.
//
// The server does not use package testing. Command policyserver serves
// files of prefixes and writes them as zone files. The project's interop command
// writes such zones for the name servers that others run.
package dnstest
