module example.org/pod

go 1.26.0
