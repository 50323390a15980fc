package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// manifest is what has been changed on the host, oldest first. A change is added,
// and the manifest written, before it is made; so a change that is written down may
// not have happened, but none has happened that is not written down.
type manifest struct {
	Changes []*change
}

// kind is what a change is about.
type kind string

const (
	kindFile      kind = "file"      // a file of ours
	kindDir       kind = "directory" // made, and ours while empty
	kindSpool     kind = "spool"     // the spool directory
	kindTable     kind = "table"     // an empty table file, of the table Name
	kindGroup     kind = "group"     // Name
	kindUser      kind = "user"      // Name
	kindRCConf    kind = "rc.conf"   // rc.conf.local, which rcctl(8) rewrites
	kindService   kind = "service"   // rcctl enable
	kindPF        kind = "pf"        // enabled
	kindPflogd    kind = "pflogd"    // enabled and started
	kindCrontab   kind = "crontab"   // root's, changed through crontab(1)
	kindNewsyslog kind = "newsyslog" // newsyslog.conf's line of pflogd's file
)

// change is one change. What it is about is Path or Name or both.
type change struct {
	Kind kind
	Path string // absolute
	Name string
	// Before is what was there; nil for nothing.
	Before *saved
	// After are the sums of everything that was ever put there: more than one after an
	// upgrade. What has another sum is the owner's.
	After []string
	// Text is what was written, where that is needed to see what others have
	// changed in it since: the crontab, newsyslog's line. Of a service it is what was
	// done to it: "enable", "start", "enable start".
	Text string
}

func (c *change) wrote(data []byte) bool {
	return slices.Contains(c.After, sum(data))
}

func (c *change) writing(data []byte) {
	if !c.wrote(data) {
		c.After = append(c.After, sum(data))
	}
}

// find returns the change of a kind at a path or of a name, nil when there is none.
func (m *manifest) find(k kind, path, name string) *change {
	for _, c := range m.Changes {
		if c.Kind == k && c.Path == path && c.Name == name {
			return c
		}
	}
	return nil
}

// The file: JSON, that an owner can read, with old contents as text where they are.

const manifestFormat = 1

type manifestJSON struct {
	Format  int          `json:"format"`
	Changes []changeJSON `json:"changes"`
}

type changeJSON struct {
	Kind   kind       `json:"kind"`
	Path   string     `json:"path,omitempty"`
	Name   string     `json:"name,omitempty"`
	Before *savedJSON `json:"before"`
	After  []string   `json:"after,omitempty"`
	Text   string     `json:"text,omitempty"`
	Bytes  []byte     `json:"bytes,omitempty"` // the text, where it is not UTF-8
}

type savedJSON struct {
	Type  string  `json:"type,omitempty"` // "directory"
	Mode  string  `json:"mode"`
	UID   int     `json:"uid"`
	GID   int     `json:"gid"`
	Sum   string  `json:"sha256,omitempty"`
	Text  *string `json:"text,omitempty"`
	Bytes []byte  `json:"bytes,omitempty"`
}

func (m *manifest) encode() ([]byte, error) {
	out := manifestJSON{Format: manifestFormat, Changes: []changeJSON{}}
	for _, c := range m.Changes {
		j := changeJSON{Kind: c.Kind, Path: c.Path, Name: c.Name, After: c.After}
		if utf8.ValidString(c.Text) {
			j.Text = c.Text
		} else {
			j.Bytes = []byte(c.Text)
		}
		if b := c.Before; b != nil {
			j.Before = &savedJSON{Mode: fmt.Sprintf("%04o", b.Mode.Perm()), UID: b.UID, GID: b.GID}
			switch text := string(b.Data); {
			case b.Mode.IsDir():
				j.Before.Type = "directory"
			case utf8.ValidString(text):
				j.Before.Sum, j.Before.Text = b.sum(), &text
			default:
				j.Before.Sum, j.Before.Bytes = b.sum(), b.Data
			}
		}
		out.Changes = append(out.Changes, j)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	err := e.Encode(out)
	return b.Bytes(), err
}

// decodeManifest reads a manifest. It believes nothing that is not whole: what
// is in it is put onto the disk by root.
func decodeManifest(data []byte) (*manifest, error) {
	var in manifestJSON
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("something follows the end")
	}
	if in.Format != manifestFormat {
		return nil, fmt.Errorf("format %d, this program knows %d", in.Format, manifestFormat)
	}
	m := new(manifest)
	for i, j := range in.Changes {
		c, err := j.change()
		if err == nil && m.find(c.Kind, c.Path, c.Name) != nil {
			err = fmt.Errorf("is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("change %d (%s %s%s): %w", i+1, j.Kind, j.Path, j.Name, err)
		}
		m.Changes = append(m.Changes, c)
	}
	return m, nil
}

func (j *changeJSON) change() (*change, error) {
	c := &change{Kind: j.Kind, Path: j.Path, Name: j.Name, After: j.After, Text: j.Text}
	if j.Text == "" {
		c.Text = string(j.Bytes)
	}
	var path, name bool
	switch c.Kind {
	case kindFile, kindDir, kindSpool, kindCrontab, kindNewsyslog, kindRCConf:
		path = true
	case kindTable:
		path, name = true, true
	case kindGroup, kindUser, kindService, kindPF, kindPflogd:
		name = true
	default:
		return nil, fmt.Errorf("unknown kind")
	}
	switch {
	case path && (!filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path || c.Path == "/" || strings.ContainsRune(c.Path, 0)):
		return nil, fmt.Errorf("%q is not the path of a file", c.Path)
	case !path && c.Path != "":
		return nil, fmt.Errorf("unexpected path")
	case name != (c.Name != ""), strings.ContainsAny(c.Name, " \t\n/:\x00") || strings.HasPrefix(c.Name, "-"):
		return nil, fmt.Errorf("%q is not a name", c.Name)
	case (c.Kind == kindCrontab || c.Kind == kindNewsyslog) && (j.Before == nil || j.Before.Type != ""):
		return nil, fmt.Errorf("without what was there before")
	case c.Kind == kindSpool && j.Before != nil && j.Before.Type == "":
		return nil, fmt.Errorf("a file where the directory was")
	}
	for _, a := range c.After {
		if len(a) != 64 || strings.Trim(a, "0123456789abcdef") != "" {
			return nil, fmt.Errorf("%q is not a checksum", a)
		}
	}
	if b := j.Before; b != nil {
		mode, err := strconv.ParseUint(b.Mode, 8, 32)
		if err != nil || mode > 0o777 || len(b.Mode) != 4 {
			return nil, fmt.Errorf("%q is not a mode", b.Mode)
		}
		if b.UID < 0 || b.GID < 0 {
			return nil, fmt.Errorf("owner %d:%d", b.UID, b.GID)
		}
		c.Before = &saved{Mode: fs.FileMode(mode), UID: b.UID, GID: b.GID}
		switch {
		case b.Type == "directory" && b.Sum == "" && b.Text == nil && b.Bytes == nil:
			c.Before.Mode |= fs.ModeDir
		case b.Type != "" || b.Text != nil && b.Bytes != nil:
			return nil, fmt.Errorf("old content of no known type")
		case b.Text != nil:
			c.Before.Data = []byte(*b.Text)
		default:
			c.Before.Data = b.Bytes
		}
		if b.Type == "" && c.Before.sum() != b.Sum {
			return nil, fmt.Errorf("the old content does not have its checksum")
		}
	}
	return c, nil
}

// readManifest returns the host's manifest, an empty one when there is none.
func readManifest(d *disk) (m *manifest, exists bool, err error) {
	f, err := d.read(manifestPath)
	if err != nil {
		return nil, false, err
	}
	if f == nil {
		return new(manifest), false, nil
	}
	if m, err = decodeManifest(f.Data); err != nil {
		return nil, true, fmt.Errorf("%s: %w: nothing was changed; put back a copy of it, or move it away to begin anew", manifestPath, err)
	}
	return m, true, nil
}

// write puts the manifest onto the disk.
func (m *manifest) write(d *disk) error {
	data, err := m.encode()
	if err != nil {
		return fmt.Errorf("%s: %w", manifestPath, err)
	}
	return d.replace(manifestPath, &saved{Mode: 0o600, Data: data})
}

// drop takes a change out, and writes the manifest.
func (m *manifest) drop(d *disk, c *change) error {
	m.Changes = slices.DeleteFunc(m.Changes, func(x *change) bool { return x == c })
	return m.write(d)
}
