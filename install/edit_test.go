package install

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunsScript(t *testing.T) {
	for _, c := range []struct {
		line string
		want string
	}{
		{cronUpdate, "alone"},
		{cronLogs, "alone"},
		{"22\t*\t*\t*\t*\t/usr/local/sbin/threatstop-pf.sh >/dev/null 2>&1", "alone"},
		{"22 * * * * -n /usr/local/sbin/threatstop-pf.sh", "alone"},
		{"22 * * * * -ns sh /usr/local/sbin/threatstop-pf.sh | logger -t ts", "alone"},
		{"22 * * * * /bin/sh /root/ts/threatstop-pf.sh", "alone"},
		{"@hourly threatstop-pf.sh", "alone"},
		{"*/15 * * * * /usr/bin/perl /usr/local/sbin/loguploadclient.pl -v", "alone"},
		{"*/15 * * * * cd /usr/local/sbin && /usr/local/sbin/sendlog.sh", "alone"},
		{"*/15 * * * * cd /usr/local/sbin; ./threatstop-pf.sh", "alone"},
		{"  22 * * * * /usr/local/sbin/threatstop-pf.sh  ", "alone"},
		{"22 * * * * /usr/local/sbin/threatstop-pf.sh; /root/mine", "among others"},
		{"22 * * * * /usr/local/sbin/threatstop-pf.sh && /root/mine", "among others"},
		{"22 * * * * /root/mine `/usr/local/sbin/threatstop-pf.sh`", "among others"},
		{"22 * * * * /usr/local/sbin/threatstop-pf.sh || mail root", "among others"},
		{"22 * * * * [ -x /usr/local/sbin/threatstop-pf.sh ] && reboot", "among others"},
		{"A = b c d e /usr/local/sbin/threatstop-pf.sh", "among others"},
		{"SCRIPT=/usr/local/sbin/threatstop-pf.sh", "among others"},
		{"#" + cronUpdate, ""},
		{"", ""},
		{"*/15 * * * * /home/joe/sendlog.sh", ""},
		{"*/15 * * * * cd /home/joe && ./sendlog.sh", ""},
		{"0 * * * * /usr/bin/newsyslog", ""},
		{"0 * * * * /usr/local/sbin/threatstopd --sync-now", ""},
		{"0 * * * * /usr/local/sbin/test.sh", ""},
		{"threatstop-pf.sh", "among others"},
	} {
		got := ""
		switch runs, alone := runsScript(c.line); {
		case alone:
			got = "alone"
		case runs:
			got = "among others"
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.line, got, c.want)
		}
	}
}

func TestTakeCron(t *testing.T) {
	marked := crontabStock + "# ThreatSTOP updates\n" + cronUpdate + "\n# logs\n" + cronLogs + "\n"
	both := []string{cronUpdate, cronLogs}
	for _, c := range []struct {
		name, body, rest string
		taken            []string
	}{
		{"no script", crontabStock, crontabStock, nil},
		{"the lines", crontabStock + cronUpdate + "\n" + cronLogs + "\n", crontabStock, both},
		{"between others", cronUpdate + "\n" + crontabStock + cronLogs, crontabStock, both},
		{"comments stay", marked, crontabStock + "# ThreatSTOP updates\n# logs\n", both},
		{"an empty crontab", "", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rest, taken, left := takeCron(c.body)
			if rest != c.rest || !slices.Equal(taken, c.taken) || left != nil {
				t.Errorf("rest:\n%s\ntaken %q, left %q", rest, taken, left)
			}
		})
	}
}

func TestSetRotation(t *testing.T) {
	const wide = `/var/log/pflog		root:wheel 600  10   *   1	ZB "pkill -HUP -u root -U root -t - -x pflogd"`
	const back = `/var/log/pflog		root:wheel 600  3   250   *	ZB "pkill -HUP -u root -U root -t - -x pflogd"`
	glob := func(line, name string) string { return strings.Replace(line, "/var/log/pflog", name, 1) }
	for _, c := range []struct{ name, conf, want string }{
		{"as OpenBSD has it", newsyslogStock, newsyslogStock},
		{"as the vendor's installer leaves it", newsyslogHourly, newsyslogStock},
		{"the line alone", wide, back},
		{"among others", "# mine\n" + wide + "\n", "# mine\n" + back + "\n"},
		{"only the first of two", wide + "\n" + wide, back + "\n" + wide},
		{"the owner's own rotation", strings.Replace(newsyslogStock, "3     250   *", "14    *     24", 1), strings.Replace(newsyslogStock, "3     250   *", "14    *     24", 1)},
		{"another file", glob(newsyslogHourly, "/var/log/pflog2"), glob(newsyslogHourly, "/var/log/pflog2")},
		{"a comment", "#" + wide, "#" + wide},
		{"a glob that covers it", glob(wide, "/var/log/pf*"), glob(back, "/var/log/pf*")},
		{"a glob that does not", glob(wide, "/var/log/pflog?"), glob(wide, "/var/log/pflog?")},
		{"too short", "/var/log/pflog 600 10 *", "/var/log/pflog 600 10 *"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, was, _ := setRotation(c.conf, hourly, stock)
			if got != c.want || (was != "") != (c.conf != c.want) {
				t.Errorf("got:\n%s\nwas %q, want:\n%s", got, was, c.want)
			}
		})
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

// No other line of a crontab ever changes.
func FuzzCrontab(f *testing.F) {
	f.Add(crontabStock + cronUpdate + "\n" + cronLogs + "\n")
	f.Add(cronUpdate + " \n#\n" + cronUpdate)
	f.Add("# threatstop\n@daily threatstop-pf.sh\n")
	f.Fuzz(func(t *testing.T, body string) {
		rest, taken, left := takeCron(body)
		out, ok := isSubsequence(slices.Collect(strings.Lines(rest)), slices.Collect(strings.Lines(body)))
		if !ok || len(out) != len(taken) {
			t.Fatalf("%q became %q, and %q", body, rest, taken)
		}
		for _, l := range append(taken, left...) {
			if runs, alone := runsScript(l); !runs || alone != slices.Contains(taken, l) {
				t.Fatalf("%q was taken, %q was left of %q", taken, left, body)
			}
		}
	})
}

// At most one line of newsyslog.conf changes, in no more than three fields, and changes back.
func FuzzNewsyslog(f *testing.F) {
	f.Add(newsyslogHourly)
	f.Add("/var/log/pflog 600 10 * 1")
	f.Fuzz(func(t *testing.T, conf string) {
		got, was, becomes := setRotation(conf, hourly, stock)
		if got == conf {
			return
		}
		if strings.Replace(conf, was, becomes, 1) != got && !strings.Contains(got, becomes) {
			t.Fatalf("%q became %q", conf, got)
		}
		diff := 0
		x, y := strings.Fields(was), strings.Fields(becomes)
		for j := range min(len(x), len(y)) {
			if x[j] != y[j] {
				diff++
			}
		}
		if len(x) != len(y) || diff > 3 || strings.Count(got, "\n") != strings.Count(conf, "\n") {
			t.Fatalf("%q became %q", was, becomes)
		}
		if _, more, _ := setRotation(conf, stock, hourly); more == "" {
			if back, _, _ := setRotation(got, stock, hourly); back != conf {
				t.Fatalf("%q does not go back to %q: %q", got, conf, back)
			}
		}
	})
}

// A file that a line names outside a comment is found, in any syntax.
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
