// Package apply brings pf and the table files to a policy.
//
// [Enforcer.Run] is one run: it makes the policy of the lists, asks the guard, and sets the allow table,
// then the block table. [Enforcer.Apply] brings one table and its file to a set, in the order that
// cannot lose the policy in force:
//
//  1. the kernel is asked what would change (SETADDRS with DUMMY); when nothing would, nothing is done;
//  2. the table is set in one atomic SETADDRS, or in two where the entry limit leaves no room for old
//     and new together;
//  3. the count is read back, since pf is authoritative;
//  4. only then the table file is replaced, so that the file never holds what the kernel has not
//     accepted, and pf.conf loads at the next boot.
//
// A table is never flushed, and no error leaves a table or a file in a state that is neither the old
// policy nor the new one, except if a message reports it (the second of two steps failed). A file that
// is not a table file is never overwritten.
package apply
