package install

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
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

// pfConf reads pf.conf(5), and the files that it includes. One that does not exist is empty.
func (h *host) pfConf() *pfConf {
	c, seen := new(pfConf), make(map[string]bool)
	var read func(name string)
	read = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		data, err := os.ReadFile(h.at(name)) // what pf.conf is a link to is as good
		if err != nil && !(name == pfConfPath && errors.Is(err, fs.ErrNotExist)) {
			c.unread = append(c.unread, fmt.Sprintf("%s cannot be read", name))
		}
		for _, line := range pfLines(string(data)) {
			line.File = name
			c.lines = append(c.lines, line)
			for _, m := range syntax().include.FindAllStringSubmatch(line.Text, -1) {
				to := strings.Trim(cmp.Or(m[1], m[2]), `"`)
				if strings.Contains(to, "$") { // a macro
					c.unread = append(c.unread, line.String())
					continue
				}
				read(path.Join("/", to)) // pfctl takes it from the directory that it is run in, which at boot is /
			}
		}
	}
	read(pfConfPath)
	return c
}

// pfLines returns the lines that are not empty (pf.conf(5): parse.y's lexer): a backslash at the end joins a
// line with the next, a # outside quotes begins a comment.
func pfLines(text string) (all []mention) {
	joined, start := "", 1
	for n, raw := range strings.Split(text+"\n", "\n") {
		part, more := strings.CutSuffix(syntax().code.FindString(raw), `\`)
		if joined += part; more {
			joined += " "
			continue
		}
		if s := strings.TrimSpace(joined); s != "" {
			all = append(all, mention{Line: start, Text: s})
		}
		joined, start = "", n+2
	}
	return all
}

// naming returns the lines that name a file. The last part of its path is enough: the rest may be in a macro, or
// be written in another way. Rather one line too many.
func (c *pfConf) naming(file string) []mention { return c.with(path.Base(file)) }

// using returns the lines that use a table.
func (c *pfConf) using(table string) []mention { return c.with("<" + table + ">") }

func (c *pfConf) with(text string) []mention {
	return slices.DeleteFunc(slices.Clone(c.lines), func(l mention) bool { return !strings.Contains(l.Text, text) })
}
