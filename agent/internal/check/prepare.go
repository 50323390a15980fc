package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/pfioctl"
)

// prepared is what only root can have, and what is on the disk, had before the process is
// confined: each with the error in its place.
type prepared struct {
	pf          bool // pf could be asked
	used, limit int  // entries of tables
	countErr    error
	block       []pfioctl.Addr // the block table
	blockErr    error

	pflog    capture.Source // nil without an error: it is not to be looked at
	seen     watch          // reads pflog
	pflogErr error

	unseen []string // what of the files that name resolvers is not followed

	roots    *x509.CertPool // for the log server
	rootsErr error
	system   *x509.CertPool // for other servers; nil: none
}

// prepare gets ready what the checks need that come when the process is confined.
func (t *tester) prepare(context.Context) {
	r, cfg := &t.ready, t.Config
	t.settle()
	r.unseen = host.Unseen(t.ResolverFiles)
	if r.pf = t.pf != nil; r.pf {
		if r.used, _, r.countErr = t.pf.Used(); r.countErr == nil {
			r.limit, r.countErr = t.pf.Limit(pfioctl.LimitTableEntries)
		}
		if cfg.ReloadPF {
			r.block, r.blockErr = t.pf.Get(t.block())
			if t.report() && !t.noPflog { // opening would create it
				log, err := t.OpenPflog(capture.Options{Interface: cfg.PflogIf, Filter: capture.FilterBlock})
				if r.pflogErr = err; err == nil {
					r.pflog = log
					go r.seen.run(log, t.Local)
				}
			}
		}
		t.pf.Close()
		t.pf = nil
	}
	// Go loads the system's when they are first used; a nil pool has none.
	r.system, _ = report.Roots("")
	if t.report() {
		r.roots, r.rootsErr = report.Roots(cfg.CAFile)
	}
}

// close gives back what prepare took.
func (t *tester) close() {
	if t.pf != nil {
		t.pf.Close()
	}
	if t.ready.pflog != nil {
		t.ready.pflog.Close()
	}
}

// confine confines the process. The foreign bytes come after it.
func (t *tester) confine(context.Context) {
	if t.Confine == nil {
		return
	}
	if err := t.Confine(t.tryToWrite); err != nil {
		t.say(rules.Fail, fmt.Sprintf("not all was looked at: %v", err))
		t.over = true
	}
}

// tryToWrite has the user of the reporting process write to the spool. What the modes of
// directories say is one thing, those above them and read-only file systems another.
func (t *tester) tryToWrite() {
	cfg := t.Config
	if uid, err := t.User(cfg.User); err != nil || !t.spoolUser || os.Geteuid() != int(uid) {
		return
	}
	f, err := os.CreateTemp(cfg.SpoolDir, ".threatstopd-test-*")
	if err == nil {
		f.Close()
		err = os.Remove(f.Name())
	}
	if err == nil {
		t.say(rules.OK, fmt.Sprintf("spool directory %s: %s can write there", cfg.SpoolDir, cfg.User))
		return
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	do := fmt.Sprintf("chown -R %s:%s %s", cfg.User, cfg.User, cfg.SpoolDir)
	if parent := filepath.Dir(cfg.SpoolDir); errors.Is(err, fs.ErrPermission) {
		do += "; chmod go+x " + parent
	}
	t.say(rules.Fail, fmt.Sprintf("spool directory %s: %s cannot write there: %v", cfg.SpoolDir, cfg.User, err), do)
}

// decides returns the entry of the block table that decides for an address, as pf would
// say; ok is false when there is none.
func (r *prepared) decides(a netip.Addr) (entry pfioctl.Addr, ok bool) {
	for _, e := range r.block {
		if e.Prefix.Contains(a) && (!ok || e.Prefix.Bits() > entry.Prefix.Bits()) {
			entry, ok = e, true
		}
	}
	return entry, ok
}
