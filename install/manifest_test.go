package install

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sampleManifest() *manifest {
	return &manifest{Changes: []*change{
		{Kind: kindFile, Path: "/usr/local/sbin/threatstopd", Before: &saved{Mode: 0o755, UID: 1, GID: 7, Data: []byte("\xff\x00")}, After: []string{sum([]byte("a")), sum([]byte("b"))}},
		{Kind: kindDir, Path: "/usr/local/etc"},
		{Kind: kindSpool, Path: "/var/spool/threatstop", Before: &saved{Mode: 0o755 | fs.ModeDir}},
		{Kind: kindTable, Path: "/var/db/x", Name: "ThreatSTOP-Block", After: []string{sum(nil)}},
		{Kind: kindUser, Name: "_threatstop"},
		{Kind: kindPF, Name: "pf", Text: "enable start"},
		{Kind: kindRCConf, Path: rcConfPath, Before: &saved{Mode: 0o644, Data: []byte("<pf=\"NO\"> &\n")}},
		{Kind: kindCrontab, Path: cronTabPath, Before: &saved{Mode: 0o600, Data: []byte{}}, Text: "\xe4\n"},
		{Kind: kindNewsyslog, Path: newsyslogPath, Before: &saved{Mode: 0o644, Data: []byte("x\n")}, Text: "a line"},
	}}
}

func TestManifest(t *testing.T) {
	m := sampleManifest()
	data, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(`"text": "<pf=\"NO\"> &\n"`)) {
		t.Errorf("not readable:\n%s", data)
	}
	got, err := decodeManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" {
		t.Error(d)
	}
}

func TestManifestRefusals(t *testing.T) {
	data, err := sampleManifest().encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
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
		{"a sum that is none", strings.Replace(good, sum([]byte("a")), "x", 1), "is not a checksum"},
		{"other old content", strings.Replace(good, `"text": "x\n"`, `"text": "y\n"`, 1), "does not have its checksum"},
		{"a mode that is none", strings.Replace(good, `"0600"`, `"4755"`, 1), "is not a mode"},
		{"an owner that is none", strings.Replace(good, `"uid": 1`, `"uid": -1`, 1), "owner -1:7"},
	} {
		if c.text == good {
			t.Fatalf("%s: nothing was changed", c.name)
		}
		_, err := decodeManifest([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.error) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.error)
		}
	}
	twice := sampleManifest()
	twice.Changes = append(twice.Changes, twice.Changes[0])
	if data, err = twice.encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := decodeManifest(data); err == nil || !strings.Contains(err.Error(), "is there twice") {
		t.Errorf("twice: %v", err)
	}
}

// What is read names only files by clean absolute paths, and is written as it was read.
func FuzzManifest(f *testing.F) {
	data, err := sampleManifest().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1,"changes":[]}`))
	f.Add([]byte(`{"format":1,"changes":[{"kind":"file","path":"/a","before":{"mode":"0644","uid":0,"gid":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest(data)
		if err != nil {
			return
		}
		for _, c := range m.Changes {
			if c.Path == "" && c.Name == "" || c.Path != "" && (!filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path) || strings.HasPrefix(c.Name, "-") {
				t.Fatalf("change %+v", c)
			}
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		n, err := decodeManifest(again)
		if err != nil {
			t.Fatalf("%v:\n%s", err, again)
		}
		third, err := n.encode()
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%v:\n%s\nbecame\n%s", err, again, third)
		}
	})
}
