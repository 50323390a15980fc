package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/host"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/pfioctl"
)

// Test goes through all checks, writes a line for each finding to w, with what to do below it, and returns the
// number of failures. A check that cannot be made is reported as skipped.
//
// First comes what is this host's: it takes root, and believes only root's files and the kernel. Then the
// process is confined, and talks to others.
func Test(ctx context.Context, o Options, w io.Writer) (failures int) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &tester{Options: o, w: w, stop: cancel}
	checks := []func(context.Context){
		t.configuration, t.root, t.openPF, t.pflog, t.rules, t.pfConf, t.files, t.prepare, t.confine,
		t.servers, t.authorised, t.headroom, t.logServer, t.indicators,
	}
	if o.Invalid != nil {
		checks = checks[:1]
	}
	for _, check := range checks {
		if ctx.Err() != nil {
			t.say(rules.Fail, nil, "not all was looked at: %v", context.Cause(ctx))
			break
		}
		check(ctx)
	}
	if t.pf != nil {
		t.pf.Close()
	}
	if t.log != nil {
		t.log.Close()
	}
	t.summary()
	return t.count[rules.Fail]
}

// A tester goes through the checks. The fields from asked on are what only root can have, and what is on the
// disk, read before the process is confined: each with the error in its place.
type tester struct {
	Options
	w         io.Writer
	stop      context.CancelCauseFunc
	findings  []rules.Finding // for JSON
	count     [rules.Fail + 1]int
	pf        *pfioctl.PF // nil when it cannot be asked, or any more
	tables    []pfioctl.TableStats
	spoolGood bool           // the spool directory is as it has to be
	noPflog   bool           // the interface that hits are read from is not there
	refused   bool           // some policy server does not know this host
	noSource  bool           // SOURCE_ADDRESS is no address of this host: nothing can be asked
	policy    *policy.Policy // what the lists make, nil if they could not be fetched

	asked       bool // pf could be asked
	used, limit int  // entries of tables
	countErr    error
	entries     []pfioctl.Addr // of the block table
	blockErr    error
	log         capture.Source // nil without an error: it is not to be looked at
	logErr      error
	hits        chan hit       // what is logged
	unseen      []string       // what of the files that name resolvers is not followed
	roots       *x509.CertPool // for the log server
	rootsErr    error
	system      *x509.CertPool // for other servers; nil: none
}

// say adds a finding, with what to do about it.
func (t *tester) say(l rules.Level, do []string, format string, args ...any) {
	t.find([]rules.Finding{{Level: l, Text: fmt.Sprintf(format, args...), Do: do}})
}

func (t *tester) ok(format string, args ...any) { t.say(rules.OK, nil, format, args...) }

func (t *tester) find(all []rules.Finding) {
	for _, f := range all {
		if t.count[f.Level]++; t.JSON {
			t.findings = append(t.findings, f)
			continue
		}
		fmt.Fprintf(t.w, "%-4s  %s\n", f.Level, f.Text)
		for _, line := range f.Do {
			fmt.Fprintf(t.w, "      %s\n", line)
		}
	}
}

// fail reports an error, and what is known to help.
func (t *tester) fail(what string, err error) {
	var do []string
	if e := (*pfioctl.Error)(nil); errors.As(err, &e) && e.Advice() != "" {
		do = []string{e.Advice()}
	}
	t.say(rules.Fail, do, "%s: %v", what, err)
}

// summary writes the last line, or the JSON.
func (t *tester) summary() {
	fails, warnings, skipped := t.count[rules.Fail], t.count[rules.Warn], t.count[rules.Skip]
	var rest []string
	switch {
	case t.JSON:
		WriteJSON(t.w, struct {
			Failures int             `json:"failures"`
			Warnings int             `json:"warnings"`
			Skipped  int             `json:"skipped"`
			Findings []rules.Finding `json:"findings"`
		}{fails, warnings, skipped, t.findings})
		return
	case fails > 0:
		fmt.Fprintf(t.w, "The test was not successful: %s.\n", count(fails, "failure", "failures"))
		return
	}
	if warnings > 0 {
		rest = append(rest, count(warnings, "warning", "warnings"))
	}
	if skipped > 0 {
		rest = append(rest, count(skipped, "check", "checks")+" skipped")
	}
	if len(rest) > 0 {
		fmt.Fprintf(t.w, "%s.\n", strings.Join(rest, ", "))
	}
	fmt.Fprintln(t.w, "The test was successful. You are now ready to run threatstopd.")
}

// report returns whether hits are reported.
func (t *tester) report() bool { return t.Config.Upload != config.UploadNone }

func (t *tester) configuration(context.Context) {
	for _, w := range t.Warnings {
		t.say(rules.Warn, nil, "configuration: %s", w.Error())
	}
	var all config.Errors
	switch {
	case errors.As(t.Invalid, &all):
		for _, e := range all {
			t.say(rules.Fail, nil, "configuration: %v", e)
		}
	case t.Invalid != nil:
		t.say(rules.Fail, []string{"write it, or name another file with -f; `threatstopd --help` has more"},
			"configuration: %v", t.Invalid)
	case len(t.Warnings) == 0:
		t.ok("configuration: %s", t.File)
	}
}

func (t *tester) root(context.Context) {
	if t.Root {
		t.ok("running as root")
	} else {
		t.say(rules.Skip, []string{"doas threatstopd --test"}, "not root: what only root may see is skipped")
	}
}

// openPF opens pf and looks whether it is enabled.
func (t *tester) openPF(context.Context) {
	pf, err := t.OpenPF()
	switch {
	case err == nil:
		t.pf = pf
	case !t.Root && errors.Is(err, os.ErrPermission):
		t.say(rules.Skip, nil, "pf: %v", err)
		return
	default:
		t.say(rules.Fail, []string{"threatstopd needs OpenBSD's pf(4)"}, "pf: %v", err)
		return
	}
	status, err := pf.Status()
	if notice := pf.Notice(); notice != "" && err == nil {
		t.say(rules.Note, nil, "pf: %s", notice)
	}
	switch {
	case errors.Is(err, pfioctl.ErrUnknownRelease):
		t.say(rules.Skip, nil, "pf: not known whether it is enabled: openbsd %s is newer than this program", pf.Release())
	case err != nil:
		t.fail("pf", err)
	case !status.Running:
		t.say(rules.Fail, []string{"pfctl -e", "rcctl enable pf"}, "pf is disabled: nothing is blocked")
	default:
		t.ok("pf is enabled")
	}
}

// pflogdInterface is what pflogd logs unless its flags say otherwise.
const pflogdInterface = "pflog0"

// pflog looks at the interface that hits are read from, and at pflogd.
func (t *tester) pflog(context.Context) {
	if !t.report() {
		t.say(rules.Skip, nil, "pflog: hits are not reported (UPLOAD=no)")
		return
	}
	name := t.Config.PflogIf
	pflogd := []string{"rcctl enable pflogd", "rcctl start pflogd"}
	create := pflogd
	if name != pflogdInterface {
		create = []string{"ifconfig " + name + " create up", "echo up > /etc/hostname." + name}
	}
	links, err := t.Interfaces()
	i := slices.IndexFunc(links, func(l rules.Interface) bool { return l.Name == name })
	switch {
	case err != nil:
		t.fail("pflog", err)
	case i < 0:
		t.say(rules.Fail, create, "pflog: interface %s does not exist: no hit can be seen", name)
		t.noPflog = true
	case !links[i].Up:
		t.say(rules.Warn, []string{"ifconfig " + name + " up"}, "pflog: interface %s is down", name)
	default:
		t.ok("pflog: interface %s is up", name)
	}
	if name != pflogdInterface {
		t.say(rules.Note, nil, "pflogd: it logs %s, not %s: what is logged while threatstopd is down is lost", pflogdInterface, name)
		return
	}
	switch err := t.FlushPflogd(); {
	case err == nil:
		t.ok("pflogd is running")
	case errors.Is(err, errors.ErrUnsupported) || !t.Root:
		t.say(rules.Skip, nil, "pflogd: not known whether it runs: %v", err)
	default:
		t.say(rules.Warn, pflogd, "%v: what is logged while threatstopd is down is lost", err)
	}
}

// rules looks at the tables and at the loaded rules.
func (t *tester) rules(context.Context) {
	if t.pf == nil {
		t.say(rules.Skip, nil, "tables and rules: pf cannot be asked")
		return
	}
	var err error
	if t.tables, err = t.pf.AllTables(); err != nil {
		t.fail("tables", err)
		return
	}
	for _, d := range t.definitions() {
		if d.need || len(t.Config.AllowLists) > 0 {
			t.table(d)
		}
	}
	loaded, err := t.pf.Rules()
	st := t.stats(t.block())
	switch refer := st.Rules + st.Anchors; {
	case errors.Is(err, pfioctl.ErrUnknownRelease) && refer == 0:
		t.say(rules.Fail, t.lines(), "rules: none refers to table <%s>", t.Config.BlockTable)
		return
	case errors.Is(err, pfioctl.ErrUnknownRelease):
		t.say(rules.Skip, append([]string{"it should have, above the first rule with quick:"}, t.lines()[1:]...),
			"rules: not known whether they block: openbsd %s is newer than this program; %d refer to the table", t.pf.Release(), refer)
		return
	case err != nil:
		t.fail("rules", err)
		return
	}
	o := rules.Options{
		Block: t.block(), Allow: t.allow(), AllowCarved: len(t.Config.AllowLists) > 0,
		Tables: t.tables, Report: t.report(), PflogIf: t.pflogNumber(),
	}
	for _, x := range policy.DefaultExceptions() {
		o.Never = append(o.Never, x.Prefix)
	}
	if o.Skipped, err = t.pf.SkippedInterfaces(); err != nil {
		t.say(rules.Skip, nil, "rules: not known which interfaces pf skips: %v", err)
	}
	o.Interfaces, _ = t.Interfaces() // without, those that rules name
	// Those that carry no packet of others: copies for looking at, and enc, which is there on every machine and
	// down without IPsec.
	o.Interfaces = slices.DeleteFunc(o.Interfaces, func(i rules.Interface) bool {
		kind := strings.TrimRight(i.Name, "0123456789")
		return kind == "pflog" || kind == "pfsync" || kind == "pflow" || kind == "enc" && !i.Up
	})
	t.find(rules.Judge(loaded, o))
}

// lines is the advice to add the rules.
func (t *tester) lines() []string {
	return append([]string{"add to pf.conf, above the first rule with quick:"}, rules.Lines(t.Config.BlockTable, t.pflogNumber())...)
}

// pflogNumber is N of pflogN.
func (t *tester) pflogNumber() (n int) {
	fmt.Sscanf(t.Config.PflogIf, "pflog%d", &n)
	return n
}

// stats returns the numbers of an active table, zero ones if there is none by that name.
func (t *tester) stats(table pfioctl.Table) (st pfioctl.TableStats) {
	for _, x := range t.tables {
		if x.Table == table && x.Active() {
			st = x
		}
	}
	return st
}

// definitions are those of both tables.
func (t *tester) definitions() []definition {
	return []definition{{t.block(), t.Config.BlockFile, true}, {t.allow(), t.Config.AllowFile, false}}
}

// table looks at one table of the kernel.
func (t *tester) table(d definition) {
	st, name, load := t.stats(d.table), d.table.Name, "pfctl -f "+t.PfConf
	switch {
	case !st.Active() && d.need:
		t.say(rules.Fail, []string{"add to pf.conf, above the rules:", d.line(), load}, "table <%s> is not there", name)
	case !st.Active():
		t.say(rules.Note, []string{"rules that name it do not see that one: define it in pf.conf:", d.line()},
			"table <%s> is not there: it is made at the first update", name)
	case st.Flags&pfioctl.TableConst != 0:
		t.say(rules.Fail, []string{"write in pf.conf:", d.line(), load}, "table <%s> is const: it cannot be updated", name)
	case st.Addresses == 0 && d.need:
		t.say(rules.Warn, []string{"threatstopd --sync-now"}, "table <%s> is empty: nothing is blocked", name)
	default:
		t.ok("table <%s> has %s", name, entryCount(st.Addresses))
	}
}

// pfConf looks at the text of pf.conf.
func (t *tester) pfConf(context.Context) {
	text, err := os.ReadFile(t.PfConf)
	if err != nil {
		t.say(rules.Skip, nil, "pf.conf: not known what it loads: %v", err)
		return
	}
	t.find(judgePfConf(t.PfConf, string(text), t.definitions()))
}

// prepare gets ready what the checks need that come when the process is confined.
func (t *tester) prepare(context.Context) {
	t.settle()
	_, t.unseen, _ = host.Resolvers(t.ResolverFiles) // an error is that of the facts, too
	// Go loads the system's when they are first used; a nil pool has none.
	t.system, _ = report.Roots("")
	if t.report() {
		t.roots, t.rootsErr = report.Roots(t.Config.CAFile)
	}
	if t.asked = t.pf != nil; !t.asked {
		return
	}
	if t.used, _, t.countErr = t.pf.Used(); t.countErr == nil {
		t.limit, t.countErr = t.pf.Limit(pfioctl.LimitTableEntries)
	}
	if t.Config.ReloadPF {
		t.entries, t.blockErr = t.pf.Get(t.block())
	}
	if t.Config.ReloadPF && t.report() && !t.noPflog { // opening would create it
		log, err := t.OpenPflog(capture.Options{Interface: t.Config.PflogIf, Filter: capture.FilterBlock})
		if t.logErr = err; err == nil {
			t.log, t.hits = log, make(chan hit, 1000)
			go watch(t.log, t.hits, t.Local)
		}
	}
	t.pf.Close()
	t.pf = nil
}

// confine confines the process. The foreign bytes come after it.
func (t *tester) confine(context.Context) {
	if t.Confine != nil {
		if err := t.Confine(t.tryToWrite); err != nil {
			t.stop(err)
		}
	}
}

// headroom looks whether the policy fits into pf, now and when pf.conf is loaded again.
func (t *tester) headroom(context.Context) {
	switch {
	case !t.asked:
		t.say(rules.Skip, nil, "entry headroom: pf cannot be asked")
		return
	case t.countErr != nil:
		t.fail("entry headroom", t.countErr)
		return
	}
	old := t.stats(t.block()).Addresses + t.stats(t.allow()).Addresses
	size, what := old, "the tables hold"
	if t.policy != nil {
		size, what = t.policy.Block.Len()+t.policy.Allow.Len(), "the policy has"
	}
	others := t.used - old
	numbers := fmt.Sprintf("limit %d, in use by other tables %d, %s %d", t.limit, others, what, size)
	advice := []string{pfioctl.AdviseEntries(others + size), "pfctl -f " + t.PfConf}
	switch {
	case others+size > t.limit:
		t.say(rules.Fail, advice, "entry headroom: the policy does not fit: %s", numbers)
	case others+2*size > t.limit:
		t.say(rules.Fail, advice, "entry headroom: pf.conf could not be loaded again, as the new tables are built beside the old: %s", numbers)
	default:
		t.ok("entry headroom: %s, twice while pf.conf is loaded", numbers)
	}
}
