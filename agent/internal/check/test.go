package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/pfioctl"
)

// Test goes through all checks, writes a line for each finding to w, with what to
// do below it, and returns the number of failures. What cannot be looked at is
// skipped, and said.
//
// First comes what is this host's: it takes root, and believes only root's files and the
// kernel. Then the process is confined, and talks to others.
func Test(ctx context.Context, o Options, w io.Writer) (failures int) {
	t := &tester{Options: o, w: w}
	for _, check := range []func(context.Context){
		t.configuration, t.root, t.openPF, t.pflog, t.rules, t.pfConf, t.files, t.prepare, t.confine,
		t.servers, t.authorised, t.headroom, t.logServer, t.indicator,
	} {
		if ctx.Err() != nil {
			t.say(rules.Fail, "not all was looked at: "+ctx.Err().Error())
			break
		}
		if check(ctx); t.over {
			break
		}
	}
	t.close()
	t.summary()
	return t.count[rules.Fail]
}

// ConfigRefused writes what Test does for a configuration that is refused, and
// returns the number of failures.
func ConfigRefused(file string, warnings []config.Problem, err error, asJSON bool, w io.Writer) (failures int) {
	t := &tester{Options: Options{JSON: asJSON}, w: w}
	for _, warning := range warnings {
		t.say(rules.Warn, "configuration: "+warning.Error())
	}
	var all config.Errors
	if errors.As(err, &all) {
		for _, e := range all {
			t.say(rules.Fail, "configuration: "+e.Error())
		}
	} else {
		t.say(rules.Fail, fmt.Sprintf("configuration: %v", err), "write it, or name another file with -f; `threatstopd --help` has more")
	}
	t.summary()
	return t.count[rules.Fail]
}

type tester struct {
	Options
	w         io.Writer
	findings  []rules.Finding // for JSON
	count     [rules.Fail + 1]int
	pf        *pfioctl.PF // until prepare
	tables    []pfioctl.TableStats
	spoolUser bool // the spool directory is there, and the user
	ready     prepared
	over      bool // no more is to be looked at

	noPflog bool           // the interface that hits are read from is not there
	refused bool           // some policy server does not know this host
	policy  *policy.Policy // what the lists make, nil if they could not be fetched
}

func (t *tester) say(l rules.Level, text string, do ...string) {
	t.count[l]++
	if t.JSON {
		t.findings = append(t.findings, rules.Finding{Level: l, Text: text, Do: do})
		return
	}
	fmt.Fprintf(t.w, "%-4s  %s\n", l, text)
	for _, line := range do {
		fmt.Fprintf(t.w, "      %s\n", line)
	}
}

func (t *tester) find(all []rules.Finding) {
	for _, f := range all {
		t.say(f.Level, f.Text, f.Do...)
	}
}

// summary is the last line, or the JSON.
func (t *tester) summary() {
	if t.JSON {
		WriteJSON(t.w, struct {
			Failures int             `json:"failures"`
			Warnings int             `json:"warnings"`
			Skipped  int             `json:"skipped"`
			Findings []rules.Finding `json:"findings"`
		}{t.count[rules.Fail], t.count[rules.Warn], t.count[rules.Skip], t.findings})
		return
	}
	if n := t.count[rules.Fail]; n > 0 {
		fmt.Fprintf(t.w, "The test was not successful: %s.\n", counted(n, "failure"))
		return
	}
	var rest []string
	if n := t.count[rules.Warn]; n > 0 {
		rest = append(rest, counted(n, "warning"))
	}
	if n := t.count[rules.Skip]; n > 0 {
		rest = append(rest, counted(n, "check")+" skipped")
	}
	if len(rest) > 0 {
		fmt.Fprintf(t.w, "%s.\n", strings.Join(rest, ", "))
	}
	fmt.Fprintln(t.w, "The test was successful. You are now ready to run threatstopd.")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func entryCount(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// report checks whether hits are reported.
func (t *tester) report() bool { return t.Config.Upload != config.UploadNone }

func (t *tester) configuration(context.Context) {
	for _, w := range t.Warnings {
		t.say(rules.Warn, "configuration: "+w.Error())
	}
	if len(t.Warnings) == 0 {
		t.say(rules.OK, "configuration: "+t.File)
	}
}

func (t *tester) root(context.Context) {
	if t.Root {
		t.say(rules.OK, "running as root")
	} else {
		t.say(rules.Skip, "not root: what only root may see is skipped", "doas threatstopd --test")
	}
}

// openPF opens pf and looks whether it is enabled.
func (t *tester) openPF(context.Context) {
	pf, err := t.OpenPF()
	switch {
	case err == nil:
		t.pf = pf
	case !t.Root && errors.Is(err, os.ErrPermission):
		t.say(rules.Skip, fmt.Sprintf("pf: %v", err))
		return
	default:
		t.say(rules.Fail, fmt.Sprintf("pf: %v", err), "threatstopd needs OpenBSD's pf(4)")
		return
	}
	status, err := pf.Status()
	if notice := pf.Notice(); notice != "" && err == nil {
		t.say(rules.Note, "pf: "+notice)
	}
	switch {
	case errors.Is(err, pfioctl.ErrUnknownRelease):
		t.say(rules.Skip, fmt.Sprintf("pf: not known whether it is enabled: openbsd %s is newer than this program", pf.Release()))
	case err != nil:
		t.fail("pf", err)
	case !status.Running:
		t.say(rules.Fail, "pf is disabled: nothing is blocked", "pfctl -e", "rcctl enable pf")
	default:
		t.say(rules.OK, "pf is enabled")
	}
}

// fail says that something went wrong, and what is known to help.
func (t *tester) fail(what string, err error) {
	text := err.Error()
	if what != "" {
		text = what + ": " + text
	}
	var e *pfioctl.Error
	if errors.As(err, &e) {
		if advice := e.Advice(); advice != "" {
			t.say(rules.Fail, text, advice)
			return
		}
	}
	t.say(rules.Fail, text)
}

// pflog looks at the interface that hits are read from, and at pflogd.
func (t *tester) pflog(context.Context) {
	if !t.report() {
		t.say(rules.Skip, "pflog: hits are not reported (UPLOAD=no)")
		return
	}
	name := t.Config.PflogIf
	create := []string{"ifconfig " + name + " create up", "echo up > /etc/hostname." + name}
	if name == pflogdInterface {
		create = []string{"rcctl enable pflogd", "rcctl start pflogd"}
	}
	links, err := t.Interfaces()
	if err != nil {
		t.fail("pflog", err)
		return
	}
	state := -1
	for _, i := range links {
		if i.Name == name {
			if state = 0; i.Up {
				state = 1
			}
		}
	}
	switch state {
	case -1:
		t.say(rules.Fail, fmt.Sprintf("pflog: interface %s does not exist: no hit can be seen", name), create...)
		t.noPflog = true
	case 0:
		t.say(rules.Warn, fmt.Sprintf("pflog: interface %s is down", name), "ifconfig "+name+" up")
	default:
		t.say(rules.OK, fmt.Sprintf("pflog: interface %s is up", name))
	}
	if name != pflogdInterface {
		t.say(rules.Note, fmt.Sprintf("pflogd: it logs %s, not %s: what is logged while threatstopd is down is lost", pflogdInterface, name))
		return
	}
	switch err := t.FlushPflogd(); {
	case err == nil:
		t.say(rules.OK, "pflogd is running")
	case errors.Is(err, errors.ErrUnsupported) || !t.Root:
		t.say(rules.Skip, fmt.Sprintf("pflogd: not known whether it runs: %v", err))
	default:
		t.say(rules.Warn, fmt.Sprintf("%v: what is logged while threatstopd is down is lost", err), "rcctl enable pflogd", "rcctl start pflogd")
	}
}

// pflogdInterface is what pflogd logs unless its flags say otherwise.
const pflogdInterface = "pflog0"

// rules looks at the tables and at the loaded rules.
func (t *tester) rules(context.Context) {
	if t.pf == nil {
		t.say(rules.Skip, "tables and rules: pf cannot be asked")
		return
	}
	tables, err := t.pf.AllTables()
	if err != nil {
		t.fail("tables", err)
		return
	}
	t.tables = tables
	t.table(t.block(), t.Config.BlockFile, true)
	if len(t.Config.AllowLists) > 0 {
		t.table(t.allow(), t.Config.AllowFile, false)
	}
	loaded, err := t.pf.Rules()
	if errors.Is(err, pfioctl.ErrUnknownRelease) {
		st, _ := t.stats(t.block())
		text := fmt.Sprintf("rules: not known whether they block: openbsd %s is newer than this program", t.pf.Release())
		if st.Rules+st.Anchors == 0 {
			t.say(rules.Fail, "rules: none refers to table <"+t.Config.BlockTable+">", append([]string{"add to pf.conf, above the first rule with quick:"}, t.lines()...)...)
			return
		}
		t.say(rules.Skip, fmt.Sprintf("%s; %d refer to the table", text, st.Rules+st.Anchors), append([]string{"it should have, above the first rule with quick:"}, t.lines()...)...)
		return
	}
	if err != nil {
		t.fail("rules", err)
		return
	}
	o := rules.Options{
		Block: t.block(), Allow: t.allow(), AllowCarved: len(t.Config.AllowLists) > 0,
		Tables: tables, Report: t.report(), PflogIf: t.pflogNumber(),
	}
	for _, x := range policy.DefaultExceptions() {
		o.Never = append(o.Never, x.Prefix)
	}
	if o.Skipped, err = t.pf.SkippedInterfaces(); err != nil {
		t.say(rules.Skip, fmt.Sprintf("rules: not known which interfaces pf skips: %v", err))
	}
	if links, err := t.Interfaces(); err == nil {
		o.Interfaces = filtered(links)
	}
	t.find(rules.Judge(loaded, o))
}

func (t *tester) lines() []string { return rules.Lines(t.Config.BlockTable, t.pflogNumber()) }

// pflogNumber is N of pflogN.
func (t *tester) pflogNumber() int {
	n := 0
	fmt.Sscanf(strings.TrimPrefix(t.Config.PflogIf, "pflog"), "%d", &n)
	return n
}

// filtered leaves out interfaces that carry no packet of others: copies for
// looking at, and what is down.
func filtered(all []rules.Interface) []rules.Interface {
	var out []rules.Interface
	for _, i := range all {
		switch strings.TrimRight(i.Name, "0123456789") {
		case "pflog", "pfsync", "pflow":
			continue
		case "enc":
			if !i.Up {
				continue // there on every machine, used with IPsec
			}
		}
		out = append(out, i)
	}
	return out
}

func (t *tester) stats(table pfioctl.Table) (pfioctl.TableStats, bool) {
	for _, st := range t.tables {
		if st.Table == table && st.Active() {
			return st, true
		}
	}
	return pfioctl.TableStats{}, false
}

// table looks at one table of the kernel.
func (t *tester) table(table pfioctl.Table, file string, needed bool) {
	st, ok := t.stats(table)
	d := definition{table: table, file: file}
	switch {
	case !ok && needed:
		t.say(rules.Fail, fmt.Sprintf("table <%s> is not there", table.Name), "add to pf.conf, above the rules:", d.line(), "pfctl -f "+t.PfConf)
	case !ok:
		t.say(rules.Note, fmt.Sprintf("table <%s> is not there: it is made at the first update", table.Name), "rules that name it do not see that one: define it in pf.conf:", d.line())
	case st.Flags&pfioctl.TableConst != 0:
		t.say(rules.Fail, fmt.Sprintf("table <%s> is const: it cannot be updated", table.Name), "write in pf.conf:", d.line(), "pfctl -f "+t.PfConf)
	case st.Addresses == 0 && needed:
		t.say(rules.Warn, fmt.Sprintf("table <%s> is empty: nothing is blocked", table.Name), "threatstopd --sync-now")
	default:
		t.say(rules.OK, fmt.Sprintf("table <%s> has %s", table.Name, entryCount(st.Addresses)))
	}
}

// pfConf looks at the text of pf.conf.
func (t *tester) pfConf(context.Context) {
	text, err := os.ReadFile(t.PfConf)
	if err != nil {
		t.say(rules.Skip, fmt.Sprintf("pf.conf: not known what it loads: %v", err))
		return
	}
	t.find(judgePfConf(t.PfConf, string(text), []definition{
		{t.block(), t.Config.BlockFile, true},
		{t.allow(), t.Config.AllowFile, false},
	}))
}

// headroom looks whether the policy fits into pf, now and when pf.conf is loaded
// again.
func (t *tester) headroom(context.Context) {
	if !t.ready.pf {
		t.say(rules.Skip, "entry headroom: pf cannot be asked")
		return
	}
	used, limit := t.ready.used, t.ready.limit
	if err := t.ready.countErr; err != nil {
		t.fail("entry headroom", err)
		return
	}
	block, _ := t.stats(t.block())
	allow, _ := t.stats(t.allow())
	old := block.Addresses + allow.Addresses
	size, what := old, "the tables hold"
	if t.policy != nil {
		size, what = t.policy.Block.Len()+t.policy.Allow.Len(), "the policy has"
	}
	others := used - old
	numbers := fmt.Sprintf("limit %d, in use by other tables %d, %s %d", limit, others, what, size)
	advice := []string{pfioctl.AdviseEntries(others + size), "pfctl -f " + t.PfConf}
	switch {
	case others+size > limit:
		t.say(rules.Fail, "entry headroom: the policy does not fit: "+numbers, advice...)
	case others+2*size > limit:
		t.say(rules.Fail, "entry headroom: pf.conf could not be loaded again, as the new tables are built beside the old: "+numbers, advice...)
	default:
		t.say(rules.OK, fmt.Sprintf("entry headroom: %s, twice while pf.conf is loaded", numbers))
	}
}
