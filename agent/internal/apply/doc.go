// Package apply brings one pf table and its persist file to a policy, in
// the order that cannot lose the policy in force:
//
//  1. the kernel is asked what would change (SETADDRS with DUMMY); when
//     nothing would, nothing is done;
//  2. the table is set in one atomic SETADDRS, or in two where the entry
//     limit leaves no room for old and new together;
//  3. the count is read back, since what pf says is the truth;
//  4. only then is the persist file replaced, so that the file never holds
//     what the kernel has not accepted, and pf.conf loads at the next boot.
//
// A table is never flushed, and no error leaves a table or a file in a state
// that is neither the old policy nor the new one, except where a message says
// so (the second of two steps failed).
package apply
