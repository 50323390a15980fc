package install

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCronUse(t *testing.T) {
	for _, c := range []struct {
		line string
		want scriptUse
	}{
		{cronUpdate, oneOf},
		{cronLogs, oneOf},
		{"22\t*\t*\t*\t*\t/usr/local/sbin/threatstop-pf.sh >/dev/null 2>&1", oneOf},
		{"22 * * * * -n /usr/local/sbin/threatstop-pf.sh", oneOf},
		{"22 * * * * -ns sh /usr/local/sbin/threatstop-pf.sh | logger -t ts", oneOf},
		{"22 * * * * /bin/sh /root/ts/threatstop-pf.sh", oneOf},
		{"@hourly threatstop-pf.sh", oneOf},
		{"*/15 * * * * /usr/bin/perl /usr/local/sbin/loguploadclient.pl -v", oneOf},
		{"*/15 * * * * cd /usr/local/sbin && ./sendlog.sh /usr/local/sbin/sendlog.sh", oneOf},
		{"*/15 * * * * cd /usr/local/sbin; ./threatstop-pf.sh", oneOf},
		{"  22 * * * * /usr/local/sbin/threatstop-pf.sh  ", oneOf},
		{"22 * * * * /usr/local/sbin/threatstop-pf.sh; /root/mine", among},
		{"22 * * * * /usr/local/sbin/threatstop-pf.sh && /root/mine", among},
		{"22 * * * * /root/mine `/usr/local/sbin/threatstop-pf.sh`", among},
		{"22 * * * * /usr/local/sbin/threatstop-pf.sh || mail root", among},
		{"22 * * * * [ -x /usr/local/sbin/threatstop-pf.sh ] && reboot", among},
		{"SCRIPT=/usr/local/sbin/threatstop-pf.sh", among},
		{"#" + cronUpdate, noScript},
		{"", noScript},
		{"*/15 * * * * /home/joe/sendlog.sh", noScript},
		{"*/15 * * * * cd /home/joe && ./sendlog.sh", noScript},
		{"0 * * * * /usr/bin/newsyslog", noScript},
		{"0 * * * * /usr/local/sbin/threatstopd --sync-now", noScript},
		{"0 * * * * /usr/local/sbin/test.sh", noScript},
		{"threatstop-pf.sh", noScript},
	} {
		if got := cronUse(c.line); got != c.want {
			t.Errorf("%q: %d, want %d", c.line, got, c.want)
		}
	}
}

func TestTakeCron(t *testing.T) {
	marked := crontabStock + "# ThreatSTOP updates\n" + cronUpdate + "\n# logs\n" + cronLogs + "\n"
	for _, c := range []struct {
		name, body, backup, rest string
		taken                    []string
	}{
		{"no script", crontabStock, "", crontabStock, nil},
		{"the lines", crontabStock + cronUpdate + "\n" + cronLogs + "\n", "", crontabStock, []string{cronUpdate, cronLogs}},
		{"between others", cronUpdate + "\n" + crontabStock + cronLogs, "", crontabStock, []string{cronUpdate, cronLogs}},
		{"comments stay", marked, "", crontabStock + "# ThreatSTOP updates\n# logs\n", []string{cronUpdate, cronLogs}},
		{"comments that the backup does not have go", crontabStock + "# ThreatSTOP updates\n" + cronUpdate + "\n", tabHeader + crontabStock, crontabStock, []string{cronUpdate, "# ThreatSTOP updates"}},
		{"comments stay where all else is not as in the backup", marked, crontabStock, crontabStock + "# ThreatSTOP updates\n# logs\n", []string{cronUpdate, cronLogs}},
		{"an empty crontab", "", "", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rest, taken, left := takeCron(c.body, c.backup)
			if rest != c.rest || !slices.Equal(taken, c.taken) || left != nil {
				t.Errorf("rest:\n%s\ntaken %q, left %q", rest, taken, left)
			}
		})
	}
}

func TestTakeNewsyslog(t *testing.T) {
	const wide = `/var/log/pflog		root:wheel 600  10   *   1	ZB "pkill -HUP -u root -U root -t - -x pflogd"`
	const back = `/var/log/pflog		root:wheel 600  3   250   *	ZB "pkill -HUP -u root -U root -t - -x pflogd"`
	for _, c := range []struct {
		name, conf, backup, want string
		changed                  bool
	}{
		{"as OpenBSD has it", newsyslogStock, newsyslogStock, newsyslogStock, false},
		{"from the backup", newsyslogHourly, newsyslogStock, newsyslogStock, true},
		{"the line alone, without a backup", wide, "", back, true},
		{"the line alone, where the rest is another", "# mine\n" + wide + "\n", "# theirs\n" + newsyslogStock, "# mine\n" + back + "\n", true},
		{"the owner's own rotation", strings.Replace(newsyslogStock, "3     250   *", "14    *     24", 1), newsyslogStock, strings.Replace(newsyslogStock, "3     250   *", "14    *     24", 1), false},
		{"another file", strings.ReplaceAll(newsyslogHourly, "/var/log/pflog", "/var/log/pflog2"), newsyslogStock, strings.ReplaceAll(newsyslogHourly, "/var/log/pflog", "/var/log/pflog2"), false},
		{"a comment", "#" + wide, "", "#" + wide, false},
		{"a backup that has it hourly, too", wide, wide, back, true},
		{"a glob that covers it", strings.Replace(wide, "/var/log/pflog", "/var/log/pf*", 1), "", strings.Replace(back, "/var/log/pflog", "/var/log/pf*", 1), true},
		{"a glob that does not", strings.Replace(wide, "/var/log/pflog", "/var/log/pflog?", 1), "", strings.Replace(wide, "/var/log/pflog", "/var/log/pflog?", 1), false},
		{"too short", "/var/log/pflog 600 10 *", "", "/var/log/pflog 600 10 *", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, was, _ := takeNewsyslog(c.conf, c.backup)
			if got != c.want || (was != "") != c.changed {
				t.Errorf("got:\n%s\nwas %q, want:\n%s", got, was, c.want)
			}
		})
	}
}

func TestGiveBack(t *testing.T) {
	for _, c := range []struct{ name, now, before, after, want string }{
		{"nothing changed since", "a\nc\n", "a\nb\nc\n", "a\nc\n", "a\nb\nc\n"},
		{"a line added since", "a\nc\nd\n", "a\nb\nc\n", "a\nc\n", "a\nb\nc\nd\n"},
		{"put back by the owner", "a\nb\nc\nd\n", "a\nb\nc\n", "a\nc\n", "a\nb\nc\nd\n"},
		{"what stood before it is gone", "c\n", "a\nb\nc\n", "a\nc\n", "c\nb\n"},
		{"two in a row", "x\na\n", "a\nb\nc\n", "a\n", "x\na\nb\nc\n"},
		{"no newline at the end", "a\nz", "a\nb\n", "a\n", "a\nb\nz\n"},
		{"emptied", "", "a\nb\n", "a\n", "b\n"},
	} {
		if got := giveBack(c.now, c.before, c.after); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPFLines(t *testing.T) {
	got := pfLines("# c\n\ntable <a> \\\n  file \"x#y\" # no\npass \\\n")
	want := []mention{{Line: 3, Text: `table <a>    file "x#y"`}, {Line: 5, Text: "pass"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// isSubsequence reports whether part is whole with lines taken out, and returns those.
func isSubsequence(part, whole []string) (out []string, ok bool) {
	for _, l := range whole {
		if len(part) > 0 && part[0] == l {
			part = part[1:]
		} else {
			out = append(out, l)
		}
	}
	return out, len(part) == 0
}

// No other line of a crontab ever changes, and what is taken out comes back.
func FuzzCrontab(f *testing.F) {
	f.Add(crontabStock+cronUpdate+"\n"+cronLogs+"\n", crontabStock, crontabStock+"5 5 * * * x\n")
	f.Add(cronUpdate+" \n#\n"+cronUpdate, "", "")
	f.Add("# threatstop\n@daily threatstop-pf.sh\n", "\n", "x")
	f.Fuzz(func(t *testing.T, body, backup, now string) {
		rest, taken, _ := takeCron(body, backup)
		_, backup = cutHeader(backup)
		out, ok := isSubsequence(splitLines(rest), splitLines(body))
		if !ok {
			t.Fatalf("%q became %q", body, rest)
		}
		for _, l := range out {
			l = strings.TrimSuffix(l, "\n")
			comment := strings.HasPrefix(strings.TrimSpace(l), "#") && strings.Contains(strings.ToLower(l), "threatstop") && rest == backup
			if cronUse(l) != oneOf && !comment {
				t.Fatalf("%q was taken out", l)
			}
			if !slices.Contains(taken, l) {
				t.Fatalf("%q was removed and not reported", l)
			}
		}
		if back := giveBack(rest, body, rest); back != body {
			t.Fatalf("given back as %q, not %q", back, body)
		}
		back := giveBack(now, body, rest)
		ending := now
		if ending != "" && !strings.HasSuffix(ending, "\n") {
			ending += "\n"
		}
		if now != rest {
			if _, ok := isSubsequence(splitLines(ending), splitLines(back)); !ok {
				t.Fatalf("%q became %q", now, back)
			}
		}
		for _, l := range taken {
			if !slices.Contains(strings.Split(back, "\n"), l) {
				t.Fatalf("%q was not given back: %q", l, back)
			}
		}
	})
}

// At most one line of newsyslog.conf changes, and in that no more than three fields.
func FuzzNewsyslog(f *testing.F) {
	f.Add(newsyslogHourly, newsyslogStock)
	f.Add(newsyslogHourly, "")
	f.Add("/var/log/pflog 600 10 * 1", "x")
	f.Fuzz(func(t *testing.T, conf, backup string) {
		got, was, becomes := takeNewsyslog(conf, backup)
		a, b := splitLines(conf), splitLines(got)
		if len(a) != len(b) {
			t.Fatalf("%d lines became %d", len(a), len(b))
		}
		changed := 0
		for i := range a {
			if a[i] == b[i] {
				continue
			}
			changed++
			if strings.TrimSuffix(a[i], "\n") != was || strings.TrimSuffix(b[i], "\n") != becomes || !isHourly(a[i]) || isHourly(b[i]) {
				t.Fatalf("%q became %q (%q, %q)", a[i], b[i], was, becomes)
			}
			if got != backup {
				x, y := strings.Fields(was), strings.Fields(becomes)
				diff := 0
				for j := range x {
					if x[j] != y[j] {
						diff++
					}
				}
				if len(x) != len(y) || diff > 3 {
					t.Fatalf("%q became %q", was, becomes)
				}
			}
		}
		if changed > 1 || (changed == 1) != (was != "") {
			t.Fatalf("%d lines changed, was %q", changed, was)
		}
		if was != "" {
			if back, ok := replaceLine(got, becomes, was); !ok || strings.Count(got, becomes) == 1 && back != conf && got != backup {
				t.Fatalf("%q does not go back to %q: %q", got, conf, back)
			}
		}
	})
}

// Whatever a line says, a file that stands in it outside a comment is found.
func FuzzPFConf(f *testing.F) {
	f.Add("table <x> file ", " # y\n", false)
	f.Add("a = \"", "\"\\\n", true)
	f.Fuzz(func(t *testing.T, before, after string, newline bool) {
		if strings.ContainsAny(before, "#") {
			return // it may be in a comment
		}
		const name = "/var/db/ThreatSTOP-Block.pftable"
		text := before + name + after
		c := &pfConf{lines: pfLines(text)}
		if len(c.naming(name)) == 0 {
			t.Fatalf("not found in %q", text)
		}
		n := strings.Count(text, "\n") + 1
		for i, l := range c.lines {
			if l.Line < 1 || l.Line > n || i > 0 && l.Line <= c.lines[i-1].Line {
				t.Fatalf("line %d of %d in %q", l.Line, n, text)
			}
		}
	})
}
