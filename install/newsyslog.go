package install

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// The fields of newsyslog.conf(5) that the vendor's installer changes in the line of pflogd's file: how many old
// files are kept, from which size in kilobytes and after how many hours the file is rotated. What OpenBSD has
// stands first.
var (
	stockRotation  = [3]string{"3", "250", "*"}
	hourlyRotation = [3]string{"10", "*", "1"}
)

// rotationLine is a line of newsyslog.conf: file, owner and group, which may be left out, mode, count, size,
// interval. It is compiled when it is needed, as cronHeader is.
var rotationLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[ \t]*([^ \t]+)[ \t]+(?:[^ \t]*[:.][^ \t]*[ \t]+)?[0-7]+[ \t]+([^ \t]+)[ \t]+([^ \t]+)[ \t]+([^ \t]+)`)
})

// rotation finds count, size and interval in a line for pflogd's file: where each is in it, as start and end. A
// file may be a glob(7) since OpenBSD 8.0; one that covers pflogd's file is the line for it.
func rotation(line string) (at [3][2]int, value [3]string, ok bool) {
	m := rotationLine().FindStringSubmatchIndex(line)
	if m == nil {
		return at, value, false
	}
	if covers, err := path.Match(line[m[2]:m[3]], pflogPath); !covers || err != nil {
		return at, value, false
	}
	for i := range value {
		at[i] = [2]int(m[4+2*i:])
		value[i] = line[at[i][0]:at[i][1]]
	}
	return at, value, true
}

// withRotation returns the line with other values.
func withRotation(line string, at [3][2]int, value [3]string) string {
	for i := len(at) - 1; i >= 0; i-- {
		line = line[:at[i][0]] + value[i] + line[at[i][1]:]
	}
	return line
}

// takeNewsyslog returns newsyslog.conf with the line of pflogd's file as it was before
// the vendor's installer changed it, and the two lines; was is "" where there is nothing
// to do. backup is the file as it was before, "" where it is not known. Where all else is
// as in the backup, its line comes from there, else only the three values change.
func takeNewsyslog(conf, backup string) (result, was, becomes string) {
	lines := splitLines(conf)
	i := slices.IndexFunc(lines, isHourly)
	if i < 0 {
		return conf, "", ""
	}
	was = bare(lines[i])
	if old := splitLines(backup); len(old) == len(lines) {
		_, _, pflog := rotation(bare(old[i]))
		if pflog && !isHourly(old[i]) && slices.Equal(lines[:i], old[:i]) && slices.Equal(lines[i+1:], old[i+1:]) {
			return backup, was, bare(old[i])
		}
	}
	at, _, _ := rotation(was)
	becomes = withRotation(was, at, stockRotation)
	lines[i] = becomes + lines[i][len(was):]
	return strings.Join(lines, ""), was, becomes
}

// isHourly reports whether a line has pflogd's file rotated as the vendor's
// installer wants it.
func isHourly(line string) bool {
	_, value, ok := rotation(bare(line))
	return ok && value == hourlyRotation
}
