// Package openbsd has the tests of a running OpenBSD host: the archive that `make test-openbsd` builds
// runs them by the script run, one case at a time, as TestHost/group/name.
//
// A case writes each thing that it makes on the host to a list before it makes it. The script removes what
// the list names after each case and when it is interrupted; the cases themselves remove nothing. See site.own.
package openbsd
