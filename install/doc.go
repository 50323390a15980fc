// Package install puts threatstopd on a host and takes it away again: program,
// manual pages, rc.d script, service user, configuration, spool, table files.
// Where the vendor's scripts run it takes their place: their lines leave root's
// crontab, and newsyslog(8) rotates pflogd's file as it did before them.
//
// Every change is first written down in a manifest, with what was there before,
// and then made. So an installation that was interrupted anywhere is finished by
// running it again, and [Uninstall] gives back what was there; what the owner has
// changed in the meantime it leaves and names. Neither edits pf.conf, nor
// removes or empties a table file that pf.conf names: pf.conf would not load.
//
// What only commands can do (useradd(8), rcctl(8), crontab(1)) goes through
// [Commands]: [Exec] runs them, [Tree] does the same to the files of a system
// that is not running.
package install
