// Package states removes the states of newly blocked addresses from pf, in a process
// of its own: the role `states`, which there is with KILL_STATES=yes alone; and the
// main process's end of it, [Client].
//
// Reading and removing states are requests to pf(4) that the promise "pf" of pledge(2)
// does not allow, so neither main nor any other process that has pledged can do it. The
// role does it dhcpd's way: started as root it opens /dev/pf, then it becomes the service
// user and gives up its view of the file system, and promises nothing. It is small
// instead, and listens to nobody but main, from which it takes ranges of addresses.
//
// Main takes numbers from it, or an error, and checks that they can be.
package states
