package install

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// mention is a line of pf.conf, or of a file that it includes, that names something.
type mention struct {
	File string
	Line int
	Text string
}

func (m mention) String() string { return fmt.Sprintf("%s:%d: %s", m.File, m.Line, m.Text) }

// pfConf has the lines of pf.conf and of the files that it includes.
type pfConf struct {
	lines  []mention // without comments, continued lines joined
	unread []string  // why something could not be read: what it names is not known
}

// pfSyntax is what of pf.conf's language leads to other files. It is compiled when it
// is needed, as cronHeader is.
var pfSyntax = sync.OnceValue(func() (s struct{ code, include, load, macro *regexp.Regexp }) {
	s.code = regexp.MustCompile(`^(?:"[^"]*(?:"|$)|'[^']*(?:'|$)|[^#"'])*`)
	s.include = regexp.MustCompile(`(?:^|\s)include\s+("[^"]*"|\S+)`)
	s.load = regexp.MustCompile(`^\s*load\s+anchor\s+.*\sfrom\s+("[^"]*"|\S+)`)
	s.macro = regexp.MustCompile(`^\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"([^"]*)"\s*$`)
	return s
})

// readPFConf reads pf.conf. One that does not exist is empty.
func readPFConf(d *disk) *pfConf {
	c := new(pfConf)
	c.read(d, pfConfPath, make(map[string]bool), make(map[string]string))
	return c
}

func (c *pfConf) read(d *disk, name string, seen map[string]bool, macros map[string]string) {
	if seen[name] {
		return
	}
	seen[name] = true
	if s, err := d.stat(name); s == nil && err == nil && name == pfConfPath {
		return
	}
	// What pf.conf is a link to is as good.
	real, err := filepath.EvalSymlinks(d.at(name))
	var f *saved
	if err == nil {
		f, err = (&disk{}).read(real)
	}
	if err != nil {
		c.unread = append(c.unread, fmt.Sprintf("%s cannot be read", name))
		return
	}
	syntax := pfSyntax()
	for _, line := range pfLines(string(f.Data)) {
		line.File = name
		c.lines = append(c.lines, line)
		if m := syntax.macro.FindStringSubmatch(line.Text); m != nil {
			macros[m[1]] = m[2]
		}
		for _, re := range []*regexp.Regexp{syntax.include, syntax.load} {
			m := re.FindStringSubmatch(line.Text)
			if m == nil {
				continue
			}
			to := strings.Trim(m[1], `"`)
			if macro, ok := strings.CutPrefix(m[1], "$"); ok {
				if to, ok = macros[macro]; !ok {
					c.unread = append(c.unread, line.String())
					continue
				}
			}
			if !path.IsAbs(to) {
				// From the directory that pfctl is run in, which at boot is /.
				to = "/" + to
			}
			c.read(d, path.Clean(to), seen, macros)
		}
	}
}

// pfLines returns the lines that are not empty (pf.conf(5): parse.y's lexer): a backslash at the end joins a line
// with the next, a # outside quotes begins a comment.
func pfLines(text string) []mention {
	var all []mention
	code := pfSyntax().code
	joined, start := "", 1
	for n, raw := range strings.Split(text, "\n") {
		part, more := strings.CutSuffix(code.FindString(raw), `\`)
		joined += part
		if more {
			joined += " "
			continue
		}
		if s := strings.TrimSpace(joined); s != "" {
			all = append(all, mention{Line: start, Text: s})
		}
		joined, start = "", n+2
	}
	if s := strings.TrimSpace(joined); s != "" {
		all = append(all, mention{Line: start, Text: s})
	}
	return all
}

// naming returns the lines that name a file. The last part of its path is enough: the rest may be in a macro, or be
// written in another way. Rather one line too many.
func (c *pfConf) naming(file string) []mention { return c.with(path.Base(file)) }

// using returns the lines that use a table.
func (c *pfConf) using(table string) []mention { return c.with("<" + table + ">") }

func (c *pfConf) with(text string) []mention {
	return slices.DeleteFunc(slices.Clone(c.lines), func(l mention) bool { return !strings.Contains(l.Text, text) })
}
