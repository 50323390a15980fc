package install

import "testing"

// What the test of the whole life needs of the fixtures: it lies outside of the
// package, since agent/cli imports that.

// Box is a host in a directory, with the vendor's scripts on it.
type Box struct{ b *box }

// NewBox lays the host out.
func NewBox(t *testing.T) *Box { return &Box{newBox(t, scriptsTree())} }

// Root is the directory.
func (b *Box) Root() string { return b.b.root }

// Install installs, and answers every question with yes.
func (b *Box) Install() string { return b.b.mustInstall() }

// Uninstall removes, and answers every question with yes.
func (b *Box) Uninstall() string { return b.b.mustUninstall() }

// Snapshot is all that is on the host.
func (b *Box) Snapshot() map[string]string { return b.b.snapshot() }

// Differences names what differs between two snapshots.
func Differences(before, after map[string]string) []string { return differences(before, after) }
