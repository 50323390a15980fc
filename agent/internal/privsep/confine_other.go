//go:build !openbsd

package privsep

func unveil(string, string) error { return nil }

func unveilNoMore() error { return nil }

func pledge(string) error { return nil }

func become(int, int) error { return nil }

func noProcesses() error { return nil }
