// Package config reads threatstop.conf into a checked [Config].
//
// The file is the one that existing installations have: shell assignments, one KEY=value a line, with the shell's
// quotes, comments and $KEY of a key set further up. It is read with a shell's grammar but never by a shell: what a
// shell would run, open or look up is refused, and the error shows how to quote it. A value that is accepted is the
// one that OpenBSD's sh(1) would set.
//
// One table (keys.go) has for each key its name, its default and what it may hold; the reader, the printer and
// the advice on unknown keys use it. What a key is for stands in example.conf, which is tested against the table.
//
// The package knows no other part of the agent but the owner of a file (host): a Config has fields of the standard
// library's types, and package cli converts them into the options of each package.
package config
