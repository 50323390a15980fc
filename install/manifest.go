package install

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The manifest has what was changed on the host, oldest first: JSON that an owner can read. A change is
// written down before it is made; so one that is written down may not have happened, but none has happened
// that is not written down.
type manifest struct {
	Format  int       `json:"format"`
	Changes []*change `json:"changes"`
}

const manifestFormat = 1

// kind is what a change is about.
type kind string

const (
	kindFile      kind = "file"      // a file of ours
	kindDir       kind = "directory" // made, and ours while empty
	kindSpool     kind = "spool"     // the spool directory
	kindTable     kind = "table"     // an empty table file, of the table Name
	kindGroup     kind = "group"     // Name
	kindUser      kind = "user"      // Name
	kindRCConf    kind = "rc.conf"   // written by earlier versions, nothing to undo
	kindService   kind = "service"   // rcctl enable
	kindPF        kind = "pf"        // enabled
	kindPflogd    kind = "pflogd"    // enabled and started
	kindCrontab   kind = "crontab"   // root's, changed through crontab(1)
	kindNewsyslog kind = "newsyslog" // newsyslog.conf's line of pflogd's file
)

// kinds has for each kind of change what identifies it, and what undoes it.
var kinds = map[kind]struct {
	path, name bool
	undo       func(*host, *change) (step, error)
}{
	kindFile:      {path: true, undo: (*host).undoFile},
	kindDir:       {path: true, undo: (*host).undoDir},
	kindSpool:     {path: true, undo: (*host).undoSpool},
	kindTable:     {path: true, name: true, undo: (*host).undoTable},
	kindGroup:     {name: true, undo: (*host).undoAccount},
	kindUser:      {name: true, undo: (*host).undoAccount},
	kindRCConf:    {path: true, undo: func(*host, *change) (step, error) { return step{}, nil }},
	kindService:   {name: true, undo: (*host).undoService},
	kindPF:        {name: true, undo: (*host).undoPF},
	kindPflogd:    {name: true, undo: (*host).undoPflogd},
	kindCrontab:   {path: true, undo: (*host).undoCrontab},
	kindNewsyslog: {path: true, undo: (*host).undoNewsyslog},
}

// change is one change. What it is about is Path or Name or both.
type change struct {
	Kind kind   `json:"kind"`
	Path string `json:"path,omitempty"` // absolute
	Name string `json:"name,omitempty"`
	// Before is what was there; nil for nothing.
	Before *saved `json:"before"`
	// After are the sums of everything that was ever put there: more than one after an upgrade. What has
	// another sum is the owner's.
	After []string `json:"after,omitempty"`
	// The content is, of a service, what was done to it: "enable", "start", "enable start".
	content
}

// saved is a file as it was, or a directory.
type saved struct {
	Type string `json:"type,omitempty"` // typeDir, "" for a regular file
	Mode mode   `json:"mode"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Sum  string `json:"sha256,omitempty"` // of a file, in the manifest
	content
}

const typeDir = "directory"

// mode has the permission bits, in JSON as in "0644".
type mode uint16

func (m mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", m), nil }

func (m *mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 9)
	if err != nil || len(text) != 4 {
		return fmt.Errorf("%q is not a mode", text)
	}
	*m = mode(n)
	return nil
}

// content is what a file contains: as Text where that is UTF-8.
type content struct {
	Text  *string `json:"text,omitempty"`
	Bytes []byte  `json:"bytes,omitempty"`
}

func contentOf(text string) content {
	if utf8.ValidString(text) {
		return content{Text: &text}
	}
	return content{Bytes: []byte(text)}
}

func (c content) text() string {
	if c.Text != nil {
		return *c.Text
	}
	return string(c.Bytes)
}

// sum returns the checksum of a text.
func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// same reports whether a file is as it was.
func same(cur, before *saved) bool {
	if cur == nil || before == nil {
		return cur == before
	}
	return cur.text() == before.text() && cur.sameOwner(before)
}

func (s *saved) sameOwner(o *saved) bool { return s.Mode == o.Mode && s.UID == o.UID && s.GID == o.GID }

func (c *change) wrote(text string) bool { return slices.Contains(c.After, sum(text)) }

// writing notes that text is about to be put there.
func (c *change) writing(text string) *change {
	if !c.wrote(text) {
		c.After = append(c.After, sum(text))
	}
	return c
}

func (c *change) sameAs(o *change) bool {
	return c.Kind == o.Kind && c.Path == o.Path && c.Name == o.Name
}

// find returns the change of a kind at a path or of a name, nil if there is none.
func (h *host) find(k kind, path, name string) *change {
	if i := slices.IndexFunc(h.changes, (&change{Kind: k, Path: path, Name: name}).sameAs); i >= 0 {
		return h.changes[i]
	}
	return nil
}

// change returns what the manifest has of a change, or a new one.
func (h *host) change(k kind, path, name string) *change {
	if c := h.find(k, path, name); c != nil {
		return c
	}
	return &change{Kind: k, Path: path, Name: name}
}

// note writes a change into the manifest, before it is made.
func (h *host) note(c *change) error {
	if !slices.Contains(h.changes, c) {
		h.changes = append(h.changes, c)
	}
	return h.writeManifest()
}

func (h *host) writeManifest() error {
	text, err := encode(h.changes)
	if err != nil {
		return fmt.Errorf("%s: %w", manifestPath, err)
	}
	return h.replace(manifestPath, &saved{Mode: 0o600, content: contentOf(text)})
}

// readManifest reads the host's manifest, which need not be there.
func (h *host) readManifest() error {
	f, err := h.read(manifestPath)
	if f == nil || err != nil {
		return err
	}
	if h.changes, err = decode(f.text()); err != nil {
		return fmt.Errorf("%s: %w: nothing was changed; put back a copy of it, or move it away to begin anew", manifestPath, err)
	}
	return nil
}

func encode(changes []*change) (string, error) {
	for _, c := range changes {
		if b := c.Before; b != nil && b.Type == "" {
			b.Sum = sum(b.text())
		}
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	err := e.Encode(manifest{manifestFormat, append([]*change{}, changes...)})
	return b.String(), err
}

// decode reads a manifest. It believes nothing that is not whole: root puts what is in it onto the disk.
func decode(text string) ([]*change, error) {
	var m manifest
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if err := d.Decode(new(any)); err != io.EOF {
		return nil, errors.New("something follows the end")
	}
	if m.Format != manifestFormat {
		return nil, fmt.Errorf("format %d, this program knows %d", m.Format, manifestFormat)
	}
	for i, c := range m.Changes {
		if c == nil {
			return nil, fmt.Errorf("change %d is missing", i+1)
		}
		err := c.check()
		if err == nil && slices.ContainsFunc(m.Changes[:i], c.sameAs) {
			err = errors.New("is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("change %d (%s %s%s): %w", i+1, c.Kind, c.Path, c.Name, err)
		}
	}
	return m.Changes, nil
}

// check returns an error if a change is not one that was written by this program.
func (c *change) check() error {
	k, known := kinds[c.Kind]
	b := c.Before
	switch {
	case !known:
		return errors.New("unknown kind")
	case k.path != (c.Path != ""), k.path && (!filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path || c.Path == "/"),
		strings.ContainsRune(c.Path, 0):
		return fmt.Errorf("%q is not the path of a file", c.Path)
	case k.name != (c.Name != ""), strings.ContainsAny(c.Name, " \t\n/:\x00"), strings.HasPrefix(c.Name, "-"):
		return fmt.Errorf("%q is not a name", c.Name)
	case b == nil && (c.Kind == kindCrontab || c.Kind == kindNewsyslog):
		return errors.New("without what was there before")
	}
	for _, a := range c.After {
		if len(a) != 64 || strings.Trim(a, "0123456789abcdef") != "" {
			return fmt.Errorf("%q is not a checksum", a)
		}
	}
	directory := c.Kind == kindSpool
	switch {
	case b == nil:
		return nil
	case b.UID < 0 || b.GID < 0:
		return fmt.Errorf("owner %d:%d", b.UID, b.GID)
	case directory != (b.Type == typeDir), b.Type != "" && b.Type != typeDir, directory && b.text() != "":
		return errors.New("old content of no known type")
	case !directory && b.Sum != sum(b.text()):
		return errors.New("the old content does not have its checksum")
	}
	return nil
}
