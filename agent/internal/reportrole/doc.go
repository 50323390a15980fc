// Package reportrole is reporting as a process of its own: the role `report`, which
// reads pflog, spools and uploads hits, keeps the history of them, and answers at
// the daemon's sockets; and the main process's end of it, [Client].
//
// The role is started as root and does at once what only root can: it opens the pflog
// interface, has pflogd write out what it holds, opens pflogd's files, reads the CA
// file. Then it gives up root and its view of the file system, says that it is ready,
// and works: [Body]. What it cannot open it tells, and serves the sockets all the
// same. Main starts it anew to try again, since there is no way back to root.
//
// It parses what strangers send: logged packets, a log server's answers, requests at the
// sockets. So main takes little from it, and checks that: whether pflog is read, and
// the two bare requests to tell main's part of the status and to fetch the policy now.
// What is in force comes from main, as the columns of the policy.Set.
package reportrole
