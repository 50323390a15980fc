// Package fetch has DNS in a process of its own. The role fetches lists and looks up host
// names; the Client, in main, asks it to. What comes back is checked entry by entry, so that
// whoever has taken over the role can make up a list, which is no more than a policy server can,
// and cannot do anything else to main.
//
// One list is asked for at a time, by a number. The role answers with progress, now and then, and
// in the end with the list (header, chunks, commit) or with why there is none; after that it has
// no more to say about that number. Lookups have numbers of their own and go on beside the list.
package fetch
