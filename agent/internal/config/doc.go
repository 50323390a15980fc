// Package config reads threatstop.conf and gives back a checked [Config].
//
// The file is the one that existing installations have: shell assignments,
// one KEY=value a line, with the shell's quotes, comments and $KEY of a key
// set further up. It is read with a shell's grammar but never by a shell:
// whatever a shell would run, open or look up is refused, and the refusal says
// how to quote it. What is accepted means exactly what /bin/sh makes of it.
//
// One table (keys.go) says of every key its name, its default, what it is for
// and what it may hold. The reader, the printer, the advice on unknown keys and
// threatstop.conf.example all come from that table.
//
// The package knows no other part of the agent: a Config has fields of the
// standard library's types, and whoever uses it cuts them into the options of
// the package at hand.
package config
