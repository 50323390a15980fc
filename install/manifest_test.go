package install

import (
	"path/filepath"
	"strings"
	"testing"
)

func sampleManifest() []*change {
	file := func(m mode, uid, gid int, text string) *saved {
		return &saved{Mode: m, UID: uid, GID: gid, content: contentOf(text)}
	}
	return []*change{
		{Kind: kindFile, Path: "/usr/local/sbin/threatstopd", Before: file(0o755, 1, 7, "\xff\x00"), After: []string{sum("a"), sum("b")}},
		{Kind: kindDir, Path: "/usr/local/etc"},
		{Kind: kindSpool, Path: "/var/spool/threatstop", Before: &saved{Type: typeDir, Mode: 0o755}},
		{Kind: kindTable, Path: "/var/db/x", Name: "ThreatSTOP-Block", After: []string{sum("")}},
		{Kind: kindUser, Name: "_threatstop"},
		{Kind: kindPF, Name: "pf", content: contentOf("enable start")},
		{Kind: kindRCConf, Path: rcConfPath, Before: file(0o644, 0, 0, "<pf=\"NO\"> &\n")},
		{Kind: kindCrontab, Path: cronTabPath, Before: file(0o600, 0, 0, ""), content: contentOf("\xe4\n")},
		{Kind: kindNewsyslog, Path: newsyslogPath, Before: file(0o644, 0, 0, "x\n"), content: contentOf("a line")},
	}
}

func TestManifest(t *testing.T) {
	text, err := encode(sampleManifest())
	if err != nil {
		t.Fatal(err)
	}
	contains(t, text, `"text": "<pf=\"NO\"> &\n"`, `"mode": "0755"`, `"type": "directory"`)
	got, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := encode(got); err != nil || again != text {
		t.Errorf("%v:\n%s\nbecame\n%s", err, text, again)
	}
	if got[0].Before.text() != "\xff\x00" || got[7].text() != "\xe4\n" {
		t.Errorf("%q, %q", got[0].Before.text(), got[7].text())
	}
}

func TestManifestRefusals(t *testing.T) {
	good, err := encode(sampleManifest())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, error string }{
		{"empty", "", "EOF"},
		{"cut", good[:len(good)/2], "unexpected EOF"},
		{"more behind it", good + "{}", "something follows the end"},
		{"another format", strings.Replace(good, `"format": 1`, `"format": 2`, 1), "format 2, this program knows 1"},
		{"an unknown field", strings.Replace(good, `"format"`, `"x": 1, "format"`, 1), `unknown field "x"`},
		{"an unknown kind", strings.Replace(good, `"kind": "user"`, `"kind": "users"`, 1), "unknown kind"},
		{"a path that is none", strings.Replace(good, `"/usr/local/etc"`, `"usr/local/etc"`, 1), "is not the path of a file"},
		{"a path with dots", strings.Replace(good, `"/usr/local/etc"`, `"/usr/../etc"`, 1), "is not the path of a file"},
		{"the root directory", strings.Replace(good, `"/usr/local/etc"`, `"/"`, 1), "is not the path of a file"},
		{"a name that is an option", strings.Replace(good, `"_threatstop"`, `"-r"`, 1), "is not a name"},
		{"no name", strings.Replace(good, `"_threatstop"`, `""`, 1), "is not a name"},
		{"a sum that is none", strings.Replace(good, sum("a"), "x", 1), "is not a checksum"},
		{"other old content", strings.Replace(good, `"text": "x\n"`, `"text": "y\n"`, 1), "does not have its checksum"},
		{"a mode that is none", strings.Replace(good, `"0600"`, `"4755"`, 1), "is not a mode"},
		{"an owner that is none", strings.Replace(good, `"uid": 1`, `"uid": -1`, 1), "owner -1:7"},
	} {
		if c.text == good {
			t.Fatalf("%s: nothing was changed", c.name)
		}
		_, err := decode(c.text)
		if err == nil || !strings.Contains(err.Error(), c.error) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.error)
		}
	}
	twice := sampleManifest()
	text, err := encode(append(twice, twice[0]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(text); err == nil || !strings.Contains(err.Error(), "is there twice") {
		t.Errorf("twice: %v", err)
	}
}

// What is read names only files by clean absolute paths, and is written as it was read.
func FuzzManifest(f *testing.F) {
	text, err := encode(sampleManifest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(`{"format":1,"changes":[]}`)
	f.Add(`{"format":1,"changes":[{"kind":"file","path":"/a","before":{"mode":"0644","uid":0,"gid":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := decode(text)
		if err != nil {
			return
		}
		for _, c := range m {
			if c.Path == "" && c.Name == "" || c.Path != "" && (!filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path) || strings.HasPrefix(c.Name, "-") {
				t.Fatalf("change %+v", c)
			}
		}
		again, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		n, err := decode(again)
		if err != nil {
			t.Fatalf("%v:\n%s", err, again)
		}
		if third, err := encode(n); err != nil || again != third {
			t.Fatalf("%v:\n%s\nbecame\n%s", err, again, third)
		}
	})
}
