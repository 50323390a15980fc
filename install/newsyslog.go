package install

import (
	"slices"
	"strings"
)

// The fields of newsyslog.conf(5) that the vendor's installer changes in the line of
// pflogd's file: how many old files are kept, from which size in kilobytes and after how
// many hours the file is rotated. What OpenBSD has stands first.
var (
	stockRotation  = [3]string{"3", "250", "*"}
	hourlyRotation = [3]string{"10", "*", "1"}
)

// rotation finds count, size and interval in a line for pflogd's file: where the three
// are in it, each as start and end.
func rotation(line string) (at [3][2]int, value [3]string, ok bool) {
	var fields [][2]int
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' {
			i++
			continue
		}
		start := i
		for i < len(line) && line[i] != ' ' && line[i] != '\t' {
			i++
		}
		fields = append(fields, [2]int{start, i})
	}
	text := func(i int) string { return line[fields[i][0]:fields[i][1]] }
	if len(fields) < 5 || text(0) != pflogPath {
		return at, value, false
	}
	// owner:group may be left out.
	mode := 1
	if strings.ContainsAny(text(1), ":.") {
		mode = 2
	}
	if len(fields) < mode+4 || strings.Trim(text(mode), "01234567") != "" {
		return at, value, false
	}
	for i := range value {
		at[i], value[i] = fields[mode+1+i], text(mode+1+i)
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
	was = strings.TrimSuffix(lines[i], "\n")
	if old := splitLines(backup); len(old) == len(lines) {
		_, _, pflog := rotation(strings.TrimSuffix(old[i], "\n"))
		if pflog && !isHourly(old[i]) && slices.Equal(lines[:i], old[:i]) && slices.Equal(lines[i+1:], old[i+1:]) {
			return backup, was, strings.TrimSuffix(old[i], "\n")
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
	_, value, ok := rotation(strings.TrimSuffix(line, "\n"))
	return ok && value == hourlyRotation
}

// replaceLine replaces the first line that is was. It reports whether there is one.
func replaceLine(text, was, becomes string) (string, bool) {
	lines := splitLines(text)
	for i, line := range lines {
		if strings.TrimSuffix(line, "\n") == was {
			lines[i] = becomes + line[len(was):]
			return strings.Join(lines, ""), true
		}
	}
	return text, false
}
